"""Takes the events of other threads to the thread of a run, whose observers have its connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from worker.engine.progress import RunStats


class Relay:
    """A Progress whose events any thread may send. Each pulse passes them on, in their order."""

    def __init__(self, emit: Callable[..., None]) -> None:
        self._emit = emit
        self._waiting: deque[tuple[str, dict[str, object]]] = deque()
        self.entrance = _Entrance(self._waiting)
        """The Progress for other threads."""

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        while self._waiting:
            name, fields = self._waiting.popleft()
            self._emit(name, **fields)

    def event(self, name: str, **fields: object) -> None:
        pass


class _Entrance:
    """Keeps events until the next pulse of the relay."""

    def __init__(self, waiting: deque[tuple[str, dict[str, object]]]) -> None:
        self._waiting = waiting

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        self._waiting.append((name, fields))
