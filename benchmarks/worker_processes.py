"""Processes that begin the same work at the same moment, and how long it takes them all."""

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
"""Gives each whole number from 0 on to one process only: which part of the work is next."""


class Work(Protocol):
    """What each process does. It is sent to the process, so it must be made of plain values."""

    def ready(self, take: Take) -> AbstractContextManager[Callable[[], None]]:
        """Connect and warm up, which is not timed; yields what is."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Processes that are there for as long as the context of `crew`."""

    size: int
    _pool: ProcessPoolExecutor
    _taken: Synchronized[int]

    def seconds(self, work: Work) -> float:
        """From the moment the first begins to the moment the last has ended."""
        self._taken.value = 0
        # Each waits for all others before it begins: so no process can take the place of two.
        futures = [self._pool.submit(_run, work) for _ in range(self.size)]
        spans = [future.result() for future in as_completed(futures)]
        return max(end for _, end in spans) - min(begin for begin, _ in spans)


@contextmanager
def crew(size: int) -> Iterator[Crew]:
    """So many processes. They start with the first work, which does not count as its time."""
    context = get_context("spawn")
    everybody, taken = context.Barrier(size), context.Value("q", 0)
    with ProcessPoolExecutor(size, context, _join, (everybody, taken)) as pool:
        try:
            yield Crew(size, pool, taken)
        except BaseException:
            everybody.abort()  # nobody is to wait for one who failed
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
