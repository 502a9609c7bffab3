"""People are told of what they should know: once, whichever of the workers finds it out.

The database says whose it is to tell; that is asked by the thread of the run, which has the
connection. What is told then goes its way in threads of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, Full
from queue import Queue as Waiting
from threading import Thread
from uuid import uuid4

from worker.engine.events import sentence
from worker.engine.progress import Progress, RunStats
from worker.errors import WorkerError
from worker.observers.channels import Channel, NotDelivered, Notice
from worker.queue import Queue, Scope
from worker.terminal import printable

TOLD = frozenset({"target_reached", "queue_drained", "failures_exceeded", "provider_stopped"})
"""The events that people are told of."""

MOST_WAITING = 100  # notices for one channel
LAST_CHANCE = 5.0  # seconds that what is under way has to arrive when the worker ends
FAREWELL = 1.0  # seconds more, for what was abandoned to end
ENDED = "the worker ended before it arrived"


class Notifier:
    """A Progress that tells people of the events of TOLD through `channels`, as a context manager.

    Each event at most once, however many workers find it out: `queue` decides. What became of it
    is told to `log`, from other threads: as notification_sent or notification_failed.
    """

    def __init__(
        self, queue: Queue, scope: Scope, channels: Sequence[Channel], log: Progress
    ) -> None:
        self._queue = queue
        self._scope = scope
        self._delivery_threads = [DeliveryThread(channel, log) for channel in channels]

    def __enter__(self) -> Notifier:
        for delivery_thread in self._delivery_threads:
            delivery_thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for LAST_CHANCE seconds at most until all has arrived."""
        until = time.monotonic() + LAST_CHANCE
        for delivery_thread in self._delivery_threads:
            delivery_thread.close(until)

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if name not in TOLD or not self._delivery_threads:
            return
        notice = self._notice(name, fields)
        of_the_scope = ".".join(filter(None, (self._scope.table, self._scope.column)))
        subject = str(fields.get("provider", of_the_scope))
        try:
            falls_to_us = self._queue.announce(name, subject, uuid4())
        except WorkerError as problem:  # better told by nobody than by all
            for delivery_thread in self._delivery_threads:
                delivery_thread.give_up(notice, problem.cause)
            return
        if falls_to_us:
            for delivery_thread in self._delivery_threads:
                delivery_thread.take(notice)

    def _notice(self, name: str, fields: dict[str, object]) -> Notice:
        hint = fields.get("hint")
        text = f"{self._scope.worker}: {sentence(name, fields)}" + (f" ({hint})" if hint else "")
        return Notice(
            text=printable(" ".join(text.split())),
            event=name,
            fields=fields,
            worker=self._scope.worker,
            time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        )


class DeliveryThread:
    """Carries notices to one channel, in a thread of its own."""

    def __init__(self, channel: Channel, log: Progress) -> None:
        self._channel = channel
        self._log = log
        self._waiting: Waiting[Notice | None] = Waiting(MOST_WAITING)
        self._under_way: Notice | None = None
        self._is_over = False
        self._thread = Thread(target=self._carry, name=f"tell-by-{channel.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, notice: Notice) -> None:
        """Carry it when those before it have arrived; never waits."""
        try:
            self._waiting.put_nowait(notice)
        except Full:
            self.give_up(notice, f"{MOST_WAITING} others wait")

    def give_up(self, notice: Notice, cause: str) -> None:
        """Log that nobody was told."""
        self._log.event(
            "notification_failed", about=notice.event, channel=self._channel.name, cause=cause
        )

    def close(self, until: float) -> None:
        """Let what waits arrive until a moment of time.monotonic(), and give up the rest."""
        with suppress(Full):
            self._waiting.put_nowait(None)
        self._thread.join(max(until - time.monotonic(), 0.0))
        if not self._thread.is_alive():
            return
        self._is_over = True
        with suppress(Empty):
            while True:
                if rest := self._waiting.get_nowait():
                    self.give_up(rest, ENDED)
        self._waiting.put_nowait(None)
        self._channel.abandon()
        self._thread.join(FAREWELL)
        if self._thread.is_alive() and self._under_way:
            self.give_up(self._under_way, ENDED)

    def _carry(self) -> None:
        while notice := self._waiting.get():
            self._under_way = notice
            self._deliver(notice)
            self._under_way = None

    def _deliver(self, notice: Notice) -> None:
        began = time.monotonic()
        try:
            self._channel.deliver(notice)
        except NotDelivered as problem:
            self.give_up(notice, ENDED if self._is_over else str(problem))
        except Exception as problem:  # of a program or a library: its words may repeat a secret
            self.give_up(notice, type(problem).__name__)
        else:
            self._log.event(
                "notification_sent",
                about=notice.event,
                channel=self._channel.name,
                seconds=time.monotonic() - began,
            )
