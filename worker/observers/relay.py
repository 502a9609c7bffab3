"""Events of other threads, which the thread of the run passes on."""

from __future__ import annotations

from collections.abc import Mapping
from queue import Empty, SimpleQueue

from worker.engine.progress import Progress, RunStats


class Relay:
    """A Progress for other threads: observers of a run expect all calls from its own thread.

    Each `pulse`, which the thread of the run calls, passes the events on to `observer`.
    """

    def __init__(self, observer: Progress) -> None:
        self._observer = observer
        self._waiting: SimpleQueue[tuple[str, Mapping[str, object]]] = SimpleQueue()

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        try:
            while True:
                name, fields = self._waiting.get_nowait()
                self._observer.event(name, **fields)
        except Empty:
            pass

    def event(self, name: str, **fields: object) -> None:
        self._waiting.put((name, fields))
