"""A server that takes what people are told, as an incoming webhook of a chat does."""

from __future__ import annotations

import threading
from typing import Any

from tests.http_server import Answer, ModelServer, Request


class Inbox(ModelServer):
    """Takes everything, unless `faults` spoil it."""

    @property
    def url(self) -> str:
        """Its address, with a secret in it."""
        return f"{self.root}/services/hunter2"

    def due(self, request: Request) -> Answer:
        return Answer(200, b"ok")

    @property
    def told(self) -> list[dict[str, Any]]:
        """What arrived, taken or not."""
        return [request.body for request in self.requests]


class Said:
    """Somebody who listens to the log, and can be waited for."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self._changed = threading.Condition()

    def update(self, stats: object) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        with self._changed:
            self.events.append((name, fields))
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[tuple[str, dict[str, object]]]:
        """The events, as soon as there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) >= count, timeout=20), (
                self.events
            )
            return list(self.events)
