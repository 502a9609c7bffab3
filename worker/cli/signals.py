"""SIGINT and SIGTERM, which end a command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event

from worker.cli.console import say

ENDING = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130  # the exit code of a command that a signal stopped


@contextmanager
def stopped_by_signals(
    finishing: str = "requests in flight", *, say_so: bool = True
) -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set. The second signal exits at once.

    `finishing`: what is finished after the first.
    """
    stop = Event()

    def on_signal() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if say_so:
            with suppress(RuntimeError):  # the signal came in the middle of another line
                say(f"stopping: finishing {finishing} (interrupt again to exit at once)")

    with _handled(on_signal):
        yield stop


@contextmanager
def ended_by_signals(numbers: Sequence[int] = ENDING) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as on Ctrl-C, even if the shell ignored SIGINT."""

    def on_signal() -> None:
        raise KeyboardInterrupt

    with _handled(on_signal, numbers):
        yield


@contextmanager
def _handled(on_signal: Callable[[], None], numbers: Sequence[int] = ENDING) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: on_signal()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
