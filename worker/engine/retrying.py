"""A queue that waits for its database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Concatenate, ParamSpec, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from worker.engine.progress import Progress
from worker.errors import Unreachable
from worker.queue import Queue

RECONNECT_TIMEOUT = 600.0  # seconds until a run gives up on its database
LONGEST_WAIT = 15.0  # seconds between two tries
ATTEND_EVERY = 5.0  # seconds at most between two calls of `attend` while waiting

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _retried(
    method: Callable[Concatenate[Queue, Arguments], Result],
) -> Callable[Concatenate[RetryingQueue, Arguments], Result]:
    """Wrap a method of a queue: call it again until the database answers."""

    def call(self: RetryingQueue, /, *given: Arguments.args, **named: Arguments.kwargs) -> Result:
        of_queue: Callable[Arguments, Result] = getattr(self.queue, method.__name__)
        return self.until_answered(lambda: of_queue(*given, **named))

    return call


@dataclass(slots=True)
class RetryingQueue:
    """A queue that repeats every call until the database answers, and reports each outage once.

    Raises Unreachable after `reconnect_timeout` seconds, or if `stop` is set and there is still no
    answer. `on_outage` is called at the beginning of an outage. `attend` sends the heartbeat: it is
    called before each call, and every few seconds during an outage; if it raises Unreachable, that
    is an outage as well.
    """

    queue: Queue
    progress: Progress
    stop: Event
    on_outage: Callable[[], None] = lambda: None
    reconnect_timeout: float = RECONNECT_TIMEOUT
    attend: Callable[[], None] | None = None

    claim = _retried(Queue.claim)
    extend = _retried(Queue.extend)
    complete = _retried(Queue.complete)
    stage = _retried(Queue.stage)
    complete_documents = _retried(Queue.complete_documents)
    fail = _retried(Queue.fail)
    release = _retried(Queue.release)
    heartbeat = _retried(Queue.heartbeat)
    command = _retried(Queue.command)
    poll = _retried(Queue.poll)
    load = _retried(Queue.load)
    listen = _retried(Queue.listen)
    wait = _retried(Queue.wait)
    deregister = _retried(Queue.deregister)
    report_provider = _retried(Queue.report_provider)
    announce = _retried(Queue.announce)
    cached = _retried(Queue.cached)
    cache = _retried(Queue.cache)
    cached_enhancements = _retried(Queue.cached_enhancements)
    cache_enhancements = _retried(Queue.cache_enhancements)

    def until_answered(self, call: Callable[[], Result]) -> Result:
        """Repeat `call` until the database answers, and return its result."""

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
    """Repeat `call` until the database answers, and return its result. See RetryingQueue."""
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
    """Wait until `stop` is set at the latest, and call `attend` meanwhile. The thread that owns the
    queue uses this for every wait that is longer than ATTEND_EVERY."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop.is_set():
        stop.wait(min(left, ATTEND_EVERY))
        attend()
