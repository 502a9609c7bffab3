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
    retry_if_exception,
    sleep_using_event,
    wait_random_exponential,
)

from worker.engine.limiter import LONGEST_RETRY_AFTER, Limiter, Stopped
from worker.errors import Transient
from worker.settings import RETRY_SECONDS

# By error class: the longest pause after the first failure, and the limit up to which it doubles,
# in seconds. The default is for errors of a provider, which somebody has to fix.
BACKOFF = {
    "changed": (2.0, 300.0),  # the row is being written: it may be stable in a moment
}
DEFAULT_BACKOFF = (30.0, 3600.0)
RATE_LIMIT_SECONDS = 120.0  # without an answer, until a rate-limited provider is given up

Result = TypeVar("Result")


def always(failure: Transient) -> bool:
    """Retry after every temporary failure."""
    return True


def is_rate_limit(failure: Transient) -> bool:
    """Retry only after a rate limit, which says nothing about the request."""
    return failure.error_class == "rate_limited"


def never(failure: Transient) -> bool:
    """Never retry."""
    return False


def with_retries(
    request: Callable[[], Result],
    limiter: Limiter,
    stop: Event,
    *,
    size: int = 0,
    tokens: int = 0,
    retry: Callable[[Transient], bool] = always,
    ahead: bool = False,
) -> Result:
    """Send `request` through `limiter` until it works, its time is over, or `stop` is set.

    One that goes `ahead` is sent before those that do not.

    Only Transient is retried, if `retry` says so: after the time that the provider asked for,
    LONGEST_RETRY_AFTER at most, or else after a random time that doubles up to 8 s. Retries end
    RETRY_SECONDS after the first try; for a rate limit, RATE_LIMIT_SECONDS after the provider last
    let a request through. Raises the error of the last try, or Stopped if there was none.
    """
    tries = _Tries(limiter, stop, ahead)
    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, Transient) and retry(error)),
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
    ahead: bool
    began: float = math.inf
    failure: Transient | None = None

    def attempt(self, request: Callable[[], Result], size: int, tokens: int) -> Result:
        if self.failure and self.stop.is_set():  # set while waiting: no further try
            raise self.failure

        def send() -> Result:
            self.began = min(self.began, time.monotonic())
            return request()

        try:
            return self.limiter.call(send, self.stop, size=size, tokens=tokens, ahead=self.ahead)
        except Stopped:
            raise self.failure or Stopped from None
        except Transient as problem:
            self.failure = problem
            raise

    def are_over(self, state: RetryCallState) -> bool:
        if self.stop.is_set() or self.limiter.breaker.blocks:
            return True
        again_at = time.monotonic() + state.upcoming_sleep
        if self.failure and is_rate_limit(self.failure):
            return again_at > self.limiter.answered_at + RATE_LIMIT_SECONDS
        return again_at >= self.began + RETRY_SECONDS


def backoff(error_class: str, failures: int) -> timedelta:
    """Return the pause of a job after this many failures of its own: exponential, full jitter.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    base, cap = BACKOFF.get(error_class, DEFAULT_BACKOFF)
    doublings = min(failures - 1, 10)  # the cap is reached before
    return timedelta(seconds=random.uniform(0, min(cap, base * 2.0**doublings)))


_random_exponential = wait_random_exponential(max=8)


def _wait(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, Transient):
        if failure.retry_after is not None:
            return min(failure.retry_after, LONGEST_RETRY_AFTER)
        if is_rate_limit(failure):
            return 0.0  # the limiter sets the pause
    return float(_random_exponential(state))
