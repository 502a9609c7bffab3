"""Two kinds of waiting, with one owner each.

Seconds, inside one request: tenacity, here. Minutes, between two claims of a job: `available_at` in
the queue, for the time that `backoff` gives.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_random_exponential,
)

from worker.engine.limiter import Limiter, Stopped
from worker.errors import Transient
from worker.settings import RETRY_SECONDS

# By error class: seconds at most after the first failure, doubling up to seconds at most.
BACKOFF = {
    "changed": (2.0, 300.0),  # the row is being written to: it may hold still in a moment
    "provider_error": (30.0, 3600.0),  # something in the provider has to be mended
    "timed_out": (30.0, 3600.0),
    "bad_answer": (30.0, 3600.0),
}
RATE_LIMIT_SECONDS = 120.0  # without an answer, until a provider that limits the rate is given up
OUTAGE_PAUSE = 60.0  # seconds until jobs are due again whose provider was out
LONGEST_PAUSE = 86_400.0  # seconds, whatever a provider asks for

Result = TypeVar("Result")


def with_retries(
    request: Callable[[], Result],
    limiter: Limiter,
    stop: Event,
    *,
    size: int = 0,
    tokens: int = 0,
) -> Result:
    """Send `request` through `limiter` until it works, or patience is over, or `stop` is set.

    Only Transient is tried again, after the time its provider asked for, or else after a random
    time that doubles up to 8 s. Patience is RETRY_SECONDS from when it was first sent; but a rate
    limit is waited for as long as the provider lets anything through, and RATE_LIMIT_SECONDS
    longer. Raises what the last try raised, or Stopped if there was none.
    """
    tries = _Tries(limiter, stop)
    retrying = Retrying(
        retry=retry_if_exception_type(Transient),
        wait=_wait,
        stop=tries.are_over,
        sleep=sleep_using_event(stop),
        reraise=True,
    )
    return retrying(lambda: tries.attempt(request, size, tokens))


@dataclass(slots=True)
class _Tries:
    limiter: Limiter
    stop: Event
    began: float = math.inf
    failure: Transient | None = None

    def attempt(self, request: Callable[[], Result], size: int, tokens: int) -> Result:
        if self.failure and self.stop.is_set():  # set while waiting: that was the last try
            raise self.failure

        def send() -> Result:
            self.began = min(self.began, time.monotonic())
            return request()

        try:
            return self.limiter.call(send, self.stop, size=size, tokens=tokens)
        except Stopped:
            raise self.failure or Stopped from None
        except Transient as problem:
            self.failure = problem
            raise

    def are_over(self, state: RetryCallState) -> bool:
        if self.stop.is_set() or self.limiter.trouble:
            return True
        again_at = time.monotonic() + state.upcoming_sleep
        if self.failure and self.failure.error_class == "rate_limited":
            return again_at > self.limiter.answered_at + RATE_LIMIT_SECONDS
        return again_at >= self.began + RETRY_SECONDS


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
    if isinstance(failure, Transient):
        if failure.retry_after is not None:
            return failure.retry_after
        if failure.error_class == "rate_limited":
            return 0.0  # the limiter has the pause, and its turns
    return float(_random_exponential(state))
