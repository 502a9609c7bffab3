"""Decides when the next request to a provider may be sent, and whether it may be sent at all.

All models and threads of a provider share one limiter, those of runs and of queries. It keeps to
the limits of the settings and of the provider, finds out how much the provider can handle, and
during an outage sends one request at a time to find out whether it is over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from threading import Condition, Event
from typing import TypeVar

from worker.embedders.base import Concurrency, Measure, RateLimitStatus
from worker.engine.breaker import Breaker
from worker.engine.rate_control import MARGIN, AdaptiveRate, ConcurrencyWindow, Pacer
from worker.errors import ProviderError, ProviderRefused, Rejected, Transient, WorkerError

PUSHES_BACK = {"rate_limited", "overloaded", "timed_out"}
FIRST_PAUSE = 0.5  # seconds after a refusal without a time; doubles while no request succeeds
LONGEST_PAUSE = 8.0  # seconds
# A provider that asks for a longer wait is treated as if it had named none.
LONGEST_RETRY_AFTER = 60.0  # seconds
OUTAGE_AFTER = 3  # failures in a row, until only one request at a time is sent
MISCOUNT = 10  # times the estimated tokens; a higher count in an answer is not believed
RESERVE = 1 - MARGIN  # of a reported limit; less is left only where others use it as well
ATTENTION = 0.25  # seconds until a waiting request notices that the run stops

Result = TypeVar("Result")


class Stopped(Exception):
    """The run ended before the request was sent."""


@dataclass(slots=True)
class Limiter:
    """The settings come first: `rpm` and `tpm` limit requests and tokens per minute, `most` limits
    requests at once, even if the provider allows more."""

    concurrency: InitVar[Concurrency]
    most: InitVar[int | None] = None
    rpm: int | None = None
    tpm: int | None = None
    breaker: Breaker = field(default_factory=Breaker)
    """While it is open, every request ends with its error."""
    clock: Callable[[], float] = lambda: time.monotonic()  # of the moment when it is called
    _window: ConcurrencyWindow = field(init=False)
    _learned: AdaptiveRate = field(default_factory=AdaptiveRate)
    _requests: Pacer = field(default_factory=Pacer)
    _tokens: Pacer = field(default_factory=Pacer)
    _said: dict[Measure, float] = field(default_factory=dict)  # a minute, by the provider
    _first_left: dict[Measure, float] = field(default_factory=dict)
    _counted_down: set[Measure] = field(default_factory=set)
    _changed: Condition = field(default_factory=Condition)
    _under_way: int = 0
    _ahead: int = 0  # requests that wait, and go before all others
    _paused_until: float = 0.0
    _pauses: int = 0  # in a row, without a success between
    _failures: int = 0  # in a row
    answered_at: float = field(init=False)
    """When the provider last let a request through."""

    def __post_init__(self, concurrency: Concurrency, most: int | None) -> None:
        self.answered_at = self.clock()
        most = most or concurrency.most
        self._window = ConcurrencyWindow(min(concurrency.first, most), most)

    @property
    def limit(self) -> int:
        """How many requests may be in flight at once, at this moment."""
        return int(self._window.limit)

    @property
    def is_out(self) -> bool:
        """Whether the provider seems to be out."""
        return self._failures >= OUTAGE_AFTER

    def call(
        self,
        request: Callable[[], Result],
        stop: Event,
        *,
        size: int = 0,
        tokens: int = 0,
        ahead: bool = False,
    ) -> Result:
        """Send a request of `size` bytes and about `tokens` tokens when it is its turn.

        One that goes `ahead` gets the next turn before all that do not.

        Raises Stopped if `stop` is set before, the error of an open breaker, or what `request`
        raises.
        """
        was_full = self._wait_for_turn(tokens, stop, ahead)
        sent = self.clock()
        failure: ProviderError | None = None
        try:
            return request()
        except ProviderError as problem:
            failure = problem
            raise
        finally:
            with self._changed:
                self.end(failure, sent, size, was_full)
                if self._ahead:
                    self._changed.notify_all()
                else:
                    self._changed.notify(2)  # one for the slot that is free, one for a new slot

    def begin(self, tokens: int) -> bool:
        """Count a request that is sent now. Return whether the window is then full."""
        now = self.clock()
        self._requests.take(now)
        self._tokens.take(now, tokens)
        self._under_way += 1
        return self._under_way >= self.limit

    def end(self, failure: ProviderError | None, sent: float, size: int, was_full: bool) -> None:
        """Count a request that has ended, and learn from how it did."""
        self._under_way -= 1
        self._learn(failure, sent, size, was_full)

    def apply(
        self, allowances: Mapping[Measure, RateLimitStatus], estimated: int, tokens: int
    ) -> None:
        """Apply the rate limits that an answer reports, and charge the tokens that it took."""
        with self._changed:
            self._tokens.charge(min(tokens, MISCOUNT * estimated) - estimated)
            for measure, status in allowances.items():
                admitted = 1 if measure == "requests" else estimated
                self._said[measure] = max(status.limit, admitted)  # it let this one through
                wanted = self._under_way if measure == "requests" else estimated
                lacking = min(wanted, status.limit) - status.remaining
                if lacking > 0:  # others use it as well: wait until that much is back
                    used = max(status.limit - status.remaining, 1.0)
                    self._pause(status.reset * lacking / used)
                self._keep_reserve(measure, status)

    def _keep_reserve(self, measure: Measure, status: RateLimitStatus) -> None:
        """Slow down before a request is refused, as after a refusal. A figure that never changes
        says nothing."""
        if status.remaining != self._first_left.setdefault(measure, status.remaining):
            self._counted_down.add(measure)
        if measure in self._counted_down and status.remaining < RESERVE * status.limit:
            now = self.clock()
            self._learned.refused(now, now, 0.0)

    def keep_to(self, concurrency: Concurrency) -> None:
        """Limit the requests at once to what was found out about the provider."""
        with self._changed:
            self._window.keep_to(concurrency.most)

    def give_up(self, error: WorkerError) -> None:
        """Open the breaker, which sets the pauses from now on, and end the waiting requests."""
        with self._changed:
            self.breaker.fail(error)
            self._end_pause()

    def retry_now(self) -> None:
        """End all pauses."""
        with self._changed:
            self.breaker.retry_now()
            self._end_pause()

    def _end_pause(self) -> None:
        self._paused_until, self._pauses = 0.0, 0
        self._changed.notify_all()

    def _wait_for_turn(self, tokens: int, stop: Event, ahead: bool) -> bool:
        """Wait until a request may be sent. Return whether the window is then full."""
        with self._changed:
            self._ahead += ahead
            try:
                while (wait := self.seconds_until_turn(stop, ahead)) > 0:
                    self._changed.wait(min(wait, ATTENTION))
            finally:
                if ahead:
                    self._ahead -= 1
                    self._changed.notify_all()
            return self.begin(tokens)

    def seconds_until_turn(self, stop: Event, ahead: bool) -> float:
        """Return for how long a request waits at least. Raises what `call` raises before it."""
        if self.breaker.blocks and (error := self.breaker.error):
            raise error
        if stop.is_set():
            raise Stopped
        if self._ahead and not ahead:
            return ATTENTION
        return self._seconds_to_wait(self.clock())

    def _seconds_to_wait(self, now: float) -> float:
        if self._under_way >= (1 if self.is_out else self.limit):
            return ATTENTION
        said = self._said
        self._requests.set_rate(
            _least(_a_second(self.rpm), _a_second(said.get("requests")), self._learned.at(now))
        )
        self._tokens.set_rate(_least(_a_second(self.tpm), _a_second(said.get("tokens"))))
        return max(self._paused_until - now, self._requests.wait(now), self._tokens.wait(now))

    def _learn(self, failure: ProviderError | None, sent: float, size: int, was_full: bool) -> None:
        now = self.clock()
        match failure:
            case ProviderRefused() if not failure.of_the_model:
                pass  # the sender checks whether others are refused as well
            case None | Rejected() | ProviderRefused():
                self.breaker.close()
                self.answered_at = now
                self._failures = self._pauses = 0
                self._learned.answered(sent)
                self._window.answered(sent, now, size, was_full)
            case Transient():
                self._learn_of_failure(failure, sent, now)

    def _learn_of_failure(self, failure: Transient, sent: float, now: float) -> None:
        is_rate = failure.error_class == "rate_limited"
        if not is_rate:
            self._failures += 1
        pause = _believable(failure.retry_after)
        is_first = sent >= self._paused_until  # of many refused at once
        if pause is None and (is_rate or self.is_out):
            self._pauses += is_first
            pause = min(FIRST_PAUSE * 2.0 ** min(self._pauses - 1, 10), LONGEST_PAUSE)
        if failure.error_class in PUSHES_BACK:
            self._window.pushed_back(sent, now)
        if is_rate:
            self._learned.refused(sent, now, pause or 0.0)
            # Workers that started together, each at a slow pace, would meet again and again.
            self._requests.charge(is_first * random.random())
        if pause:
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        seconds = seconds if seconds <= LONGEST_RETRY_AFTER else LONGEST_PAUSE
        until = self.clock() + seconds * random.uniform(1.0, 1.1)
        self._paused_until = max(self._paused_until, until)


def _believable(wait: float | None) -> float | None:
    """Return a requested wait, unless it is so long that one odd answer would stop all requests."""
    return wait if wait is not None and wait <= LONGEST_RETRY_AFTER else None


def _a_second(a_minute: float | None) -> float | None:
    return None if a_minute is None else MARGIN * a_minute / 60


def _least(*rates: float | None) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)
