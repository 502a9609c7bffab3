"""Events of other threads, which the thread of the run passes on."""

from __future__ import annotations

from collections.abc import Mapping
from queue import Empty, SimpleQueue

from worker.engine.progress import Progress, RunStats

_Events = SimpleQueue[tuple[str, Mapping[str, object]]]


class Relay:
    """A Progress of the thread of a run, which passes on to `observer` what other threads report.

    Observers of a run expect all calls from its own thread. Other threads get the Progress
    `entrance`; what they report is passed on with the next `pulse`.
    """

    def __init__(self, observer: Progress) -> None:
        self._observer = observer
        self._waiting: _Events = SimpleQueue()
        self.entrance: Progress = _Entrance(self._waiting)

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
        pass


class _Entrance:
    def __init__(self, waiting: _Events) -> None:
        self._waiting = waiting

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        self._waiting.put((name, fields))
