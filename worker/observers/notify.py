"""Notifies people of important events: once, even if several workers report them.

The database decides which worker notifies. The thread of the run asks it, since that has the
connection. Other threads then deliver the notification.
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

NOTIFIED = frozenset(
    {
        "target_reached",
        "queue_drained",
        "failures_exceeded",
        "provider_stopped",
        "vectors_damaged",
        "model_drifted",
        "problem_found",
        "backup_failed",
        "batch_failed",
    }
)
"""The events that people are notified of."""

MOST_WAITING = 100  # notices for one channel
DELIVERY_TIMEOUT = 5.0  # seconds that deliveries have to finish when the worker ends
ABANDON_TIMEOUT = 1.0  # seconds more, for abandoned deliveries to end
ENDED = "the worker ended before it was delivered"


class Notifier:
    """A Progress that notifies people of the events of NOTIFIED through `channels`; a context
    manager.

    Each event is sent at most once, even if several workers report it: `queue` decides. The result
    goes to `log`, from other threads, as notification_sent or notification_failed.
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
        """Wait until all is delivered, for DELIVERY_TIMEOUT seconds at most."""
        until = time.monotonic() + DELIVERY_TIMEOUT
        for delivery_thread in self._delivery_threads:
            delivery_thread.close(until)

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if name not in NOTIFIED or not self._delivery_threads:
            return
        notice = self._notice(name, fields)
        subject = self._subject(fields)
        try:
            is_ours = self._queue.announce(name, subject, uuid4())
        except WorkerError as problem:  # no notification is better than one from every worker
            for delivery_thread in self._delivery_threads:
                delivery_thread.give_up(notice, problem.cause)
            return
        if is_ours:
            for delivery_thread in self._delivery_threads:
                delivery_thread.take(notice)

    def _subject(self, fields: dict[str, object]) -> str:
        """Return what an event is about: of several reports about one subject, one is sent."""
        for name in ("provider", "destination", "subject"):
            if name in fields:
                return str(fields[name])
        if "table" in fields:
            return f"{fields['table']}.{fields['column']}"
        return ".".join(filter(None, (self._scope.table, self._scope.column)))

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
    """Delivers notices to one channel, in its own thread."""

    def __init__(self, channel: Channel, log: Progress) -> None:
        self._channel = channel
        self._log = log
        self._waiting: Waiting[Notice | None] = Waiting(MOST_WAITING)
        self._under_way: Notice | None = None
        self._is_over = False
        self._thread = Thread(
            target=self._deliver_all, name=f"notify-by-{channel.name}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def take(self, notice: Notice) -> None:
        """Deliver a notice after those before it. Never waits."""
        try:
            self._waiting.put_nowait(notice)
        except Full:
            self.give_up(notice, f"{MOST_WAITING} notifications are waiting")

    def give_up(self, notice: Notice, cause: str) -> None:
        """Log that a notice was not delivered."""
        self._log.event(
            "notification_failed", about=notice.event, channel=self._channel.name, cause=cause
        )

    def close(self, until: float) -> None:
        """Deliver waiting notices until a time of time.monotonic(), and give up the rest."""
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
        self._thread.join(ABANDON_TIMEOUT)
        if self._thread.is_alive() and self._under_way:
            self.give_up(self._under_way, ENDED)

    def _deliver_all(self) -> None:
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
        except Exception as problem:  # of a program or a library: its message may repeat a secret
            self.give_up(notice, type(problem).__name__)
        else:
            self._log.event(
                "notification_sent",
                about=notice.event,
                channel=self._channel.name,
                seconds=time.monotonic() - began,
            )
