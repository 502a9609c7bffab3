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

# By error class: seconds at most after the first failure, doubling up to seconds at most.
BACKOFF = {
    "changed": (2.0, 300.0),  # the row is being written to: it may hold still in a moment
    "provider_error": (30.0, 3600.0),  # something in the provider has to be mended
}
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


def backoff(error_class: str, failures: int) -> timedelta:
    """When a job is due again after so many failures of its own: exponential with full jitter.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    base, cap = BACKOFF[error_class]
    doublings = min(failures - 1, 10)  # the cap is reached before
    return timedelta(seconds=random.uniform(0, min(cap, base * 2.0**doublings)))


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
