"""A few connections to the database, which requests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import BoundedSemaphore, Lock

from worker.errors import Unreachable
from worker.queue import AdminQueue

MOST_QUEUES = 4
LONGEST_WAIT = 5.0  # seconds for a queue that is free


class Queues:
    """At most MOST_QUEUES queues, each opened when it is needed and used by one thread at a time.

    A queue connects again by itself after an outage.
    """

    def __init__(self, open_one: Callable[[], AbstractContextManager[AdminQueue]]) -> None:
        self._open_one = open_one
        self._free: list[AdminQueue] = []
        self._lock = Lock()
        self._room = BoundedSemaphore(MOST_QUEUES)
        self._opened = ExitStack()

    @contextmanager
    def lent(self) -> Iterator[AdminQueue]:
        """Yield a queue that nobody else uses.

        Raises Unreachable if none is free for LONGEST_WAIT or the database is out of reach, and
        SchemaError if the schema does not fit.
        """
        if not self._room.acquire(timeout=LONGEST_WAIT):
            raise Unreachable("all connections to the database are busy", "Try again soon.")
        try:
            queue = self._take() or self._open()
            try:
                yield queue
            finally:
                with self._lock:
                    self._free.append(queue)
        finally:
            self._room.release()

    def close(self) -> None:
        """Close all queues. None may be in use."""
        with self._lock:
            self._free.clear()
            self._opened.close()

    def _take(self) -> AdminQueue | None:
        with self._lock:
            return self._free.pop() if self._free else None

    def _open(self) -> AdminQueue:
        opening = ExitStack()
        queue = opening.enter_context(self._open_one())
        with self._lock:
            self._opened.push(opening)
        return queue
