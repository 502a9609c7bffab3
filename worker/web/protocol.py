"""HTTP/1.1 that does not wait forever for those at the other end."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_HEAD = 10.0  # seconds until the first line and the headers of a request have arrived
LONGEST_READING = 300.0  # seconds until the client has read what was sent to it


class PatientProtocol(H11Protocol):
    """Closes connections whose request does not arrive, whose body goes on after its answer, or
    whose answer is not taken, and new ones if there are too many.

    uvicorn limits only the pause between two requests, and counts connections when a request has
    arrived.
    """

    _head_is_due: asyncio.TimerHandle | None = None
    _reading_is_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.limit_concurrency and len(self.connections) >= self.limit_concurrency:
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_is_due = self.loop.call_later(LONGEST_READING, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._reading_is_due is not None:
            self._reading_is_due.cancel()
            self._reading_is_due = None

    def handle_events(self) -> None:
        super().handle_events()
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request()

    def _expect_request(self) -> None:
        is_answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if self.conn.their_state is h11.IDLE or is_answered:
            self._expect_head()
        else:
            self._stop_expecting()

    def _expect_head(self) -> None:
        if self._head_is_due is None:
            self._head_is_due = self.loop.call_later(LONGEST_HEAD, self.transport.close)

    def _stop_expecting(self) -> None:
        if self._head_is_due is not None:
            self._head_is_due.cancel()
            self._head_is_due = None
