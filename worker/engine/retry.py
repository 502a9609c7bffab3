"""Two kinds of waiting, with one owner each.

Seconds, inside one request: tenacity, here. Minutes, between two claims of a job: `available_at` in
the queue, for the time that `backoff` gives.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from worker.errors import Transient
from worker.settings import RETRY_SECONDS

BACKOFF_BASE = 2.0  # seconds
BACKOFF_CAP = 300.0  # seconds
OUTAGE_PAUSE = 60.0  # seconds until jobs are due again whose provider was out
LONGEST_PAUSE = 86_400.0  # seconds, whatever a provider asks for

Result = TypeVar("Result")


def with_retries(call: Callable[[], Result], stop: Event) -> Result:
    """Call until it works, for RETRY_SECONDS at most, or until `stop` is set.

    Only Transient is tried again, after the time its provider asked for, or else after a random
    time that doubles up to 8 s. Raises what the last try raised.
    """
    failure: Transient | None = None

    def attempt() -> Result:
        nonlocal failure
        if failure and stop.is_set():  # set while waiting: that was the last try
            raise failure
        try:
            return call()
        except Transient as problem:
            failure = problem
            raise

    retrying = Retrying(
        retry=retry_if_exception_type(Transient),
        wait=_wait,
        stop=stop_before_delay(RETRY_SECONDS) | stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        reraise=True,
    )
    return retrying(attempt)


def backoff(attempts: int) -> timedelta:
    """Exponential with full jitter: from 0 to 2 s after the first attempt, at most to 5 min.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    doublings = min(max(attempts - 1, 0), 10)  # the cap is reached long before
    ceiling = min(BACKOFF_CAP, BACKOFF_BASE * 2.0**doublings)
    return timedelta(seconds=random.uniform(0, ceiling))


def pause_after(outage: Transient) -> timedelta:
    """How long to leave a provider alone that did not come back within RETRY_SECONDS."""
    asked = min(outage.retry_after or 0, LONGEST_PAUSE)
    return timedelta(seconds=max(asked, OUTAGE_PAUSE))


_random_exponential = wait_random_exponential(max=8)


def _wait(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, Transient) and failure.retry_after is not None:
        return failure.retry_after
    return float(_random_exponential(state))
