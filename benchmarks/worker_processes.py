"""Processes that begin the same work at the same moment, and the time until all have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from typing import Protocol

LONGEST_WAIT = 120.0  # seconds for all to be ready

Take = Callable[[], int]
"""Returns the next part of the work, counted from 0. Each number goes to one process only."""


class Work(Protocol):
    """What each process does. It is sent to the process, so it must be picklable."""

    def ready(self, take: Take) -> AbstractContextManager[Callable[[], None]]:
        """Connect and warm up, which is not timed. Yields the function that is timed."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes that run while the context of `run_processes` lasts."""

    size: int
    _pool: ProcessPoolExecutor
    _taken: Synchronized[int]

    def seconds(self, work: Work) -> float:
        """Return the time from when the first process begins until the last has ended."""
        self._taken.value = 0
        # Each waits for all others before it begins, so no process runs two of them.
        futures = [self._pool.submit(_run, work) for _ in range(self.size)]
        spans = [future.result() for future in as_completed(futures)]
        return max(end for _, end in spans) - min(begin for begin, _ in spans)


@contextmanager
def run_processes(size: int) -> Iterator[Processes]:
    """Run `size` processes. They start with the first work; the start is not timed."""
    context = get_context("spawn")
    everybody, taken = context.Barrier(size), context.Value("q", 0)
    with ProcessPoolExecutor(size, context, _join, (everybody, taken)) as pool:
        try:
            yield Processes(size, pool, taken)
        except BaseException:
            everybody.abort()  # so that no process waits for one that failed
            raise


_everybody: Barrier
_taken: Synchronized[int]


def _join(everybody: Barrier, taken: Synchronized[int]) -> None:
    global _everybody, _taken
    _everybody, _taken = everybody, taken


def _take() -> int:
    with _taken.get_lock():
        _taken.value += 1
        return _taken.value - 1


def _run(work: Work) -> tuple[float, float]:
    with work.ready(_take) as go:
        _everybody.wait(LONGEST_WAIT)
        begun = time.monotonic()  # the same clock in all processes
        go()
        return begun, time.monotonic()
