"""A queue that waits for its database."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import TypeVar
from uuid import UUID

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from worker.engine.progress import Progress
from worker.errors import Unreachable
from worker.queue import (
    Cached,
    Claim,
    Command,
    Completion,
    DatabaseLoad,
    Job,
    LeaseKey,
    Queue,
    Refusal,
    Report,
    Scope,
)

RECONNECT_TIMEOUT = 600.0  # seconds until a run gives its database up
LONGEST_WAIT = 15.0  # seconds between two tries
SIGN_OF_LIFE = 5.0  # seconds between two signs of life at most, whatever is waited for

Result = TypeVar("Result")


@dataclass(slots=True)
class RetryingQueue:
    """`queue`, with every call made again until the database answers. Says so once.

    Raises Unreachable after `patience` seconds, or if `stop` is set and there is still no answer.
    `on_outage` is called at the beginning of an outage. `attend` gives signs of life: it is called
    before each statement, and every few seconds while the database is waited for; if it raises
    Unreachable, that is an outage as well.
    """

    queue: Queue
    progress: Progress
    stop: Event
    on_outage: Callable[[], None] = lambda: None
    reconnect_timeout: float = RECONNECT_TIMEOUT
    attend: Callable[[], None] | None = None

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        return self.until_answered(lambda: self.queue.claim(scope, batch_size, except_targets))

    def extend(self, scope: Scope, jobs: Sequence[Job]) -> set[LeaseKey]:
        return self.until_answered(lambda: self.queue.extend(scope, jobs))

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        return self.until_answered(lambda: self.queue.complete(model, completions))

    def fail(
        self, jobs: Sequence[Job], error_class: str, message: str, retry_in: timedelta | None = None
    ) -> int:
        return self.until_answered(lambda: self.queue.fail(jobs, error_class, message, retry_in))

    def release(
        self,
        jobs: Sequence[Job],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        self.until_answered(
            lambda: self.queue.release(jobs, retry_in, reason, error_class, embedded=embedded)
        )

    def heartbeat(self, scope: Scope, report: Report) -> None:
        self.until_answered(lambda: self.queue.heartbeat(scope, report))

    def command(self, scope: Scope) -> Command:
        return self.until_answered(lambda: self.queue.command(scope))

    def load(self) -> DatabaseLoad:
        return self.until_answered(self.queue.load)

    def listen(self) -> bool:
        return self.until_answered(self.queue.listen)

    def wait(self, seconds: float) -> bool:
        return self.until_answered(lambda: self.queue.wait(seconds))

    def report_provider(self, provider: str, error: str | None, hint: str | None = None) -> None:
        self.until_answered(lambda: self.queue.report_provider(provider, error, hint))

    def announce(self, event: str, subject: str, announcement: UUID) -> bool:
        return self.until_answered(lambda: self.queue.announce(event, subject, announcement))

    def cached(self, model: str, dimensions: int, hashes: Sequence[bytes]) -> Cached:
        return self.until_answered(lambda: self.queue.cached(model, dimensions, hashes))

    def cache(self, model: str, completions: Sequence[Completion], cap_mb: int) -> None:
        self.until_answered(lambda: self.queue.cache(model, completions, cap_mb))

    def deregister(self, scope: Scope) -> None:
        self.until_answered(lambda: self.queue.deregister(scope))

    def until_answered(self, call: Callable[[], Result]) -> Result:
        """What `call` returns, made again until the database answers."""

        attend = self.attend or self.progress.pulse

        def attended() -> Result:
            attend()
            return call()

        return until_answered(
            attended, self.progress, self.stop, self.on_outage, self.reconnect_timeout, attend
        )


def until_answered(
    call: Callable[[], Result],
    progress: Progress,
    stop: Event,
    on_outage: Callable[[], None] = lambda: None,
    reconnect_timeout: float = RECONNECT_TIMEOUT,
    attend: Callable[[], None] | None = None,
) -> Result:
    """What `call` returns, made again until the database answers. See RetryingQueue."""
    try:
        return call()
    except Unreachable as outage:
        on_outage()
        progress.event("database_lost", cause=outage.cause)
    began = time.monotonic()

    def attend_if_possible() -> None:
        with suppress(Unreachable):
            (attend or progress.pulse)()

    retrying = Retrying(
        retry=retry_if_exception_type(Unreachable),
        wait=wait_random_exponential(max=LONGEST_WAIT),
        stop=stop_after_delay(reconnect_timeout) | stop_when_event_set(stop),
        sleep=lambda seconds: pause(seconds, stop, attend_if_possible),
        reraise=True,
    )
    result = retrying(call)
    progress.event("database_back", seconds=time.monotonic() - began)
    return result


def pause(seconds: float, stop: Event, attend: Callable[[], None]) -> None:
    """Wait, until `stop` at most, and give signs of life meanwhile. Every wait of the thread that
    owns the queue is this one, unless it is shorter than SIGN_OF_LIFE."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop.is_set():
        stop.wait(min(left, SIGN_OF_LIFE))
        attend()
