"""Providers, and what the models behind them have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from worker.embedders.base import Concurrency
from worker.engine.breaker import Breaker
from worker.engine.limiter import Limiter
from worker.engine.retry import is_rate_limit
from worker.errors import ProviderError, ProviderRefused, Transient

PROBES = 5  # without an answer, until the model counts as out

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """The limits of the settings for each provider: requests at once, requests and tokens a minute.

    None: no limit but those of the provider.
    """

    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None


@dataclass(slots=True)
class Limiters:
    """The limiter of each provider, which all runs and queries of a process can share.

    They are kept while no model is open: what they have learned holds when one is opened again.
    """

    limits: ProviderLimits = field(default_factory=ProviderLimits)
    _limiters: dict[str, Limiter] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, provider: str, concurrency: Concurrency) -> Limiter:
        """Return the limiter of a provider: a new one with this `concurrency` at the first call."""
        with self._lock:
            if provider not in self._limiters:
                limits = self.limits
                self._limiters[provider] = Limiter(
                    concurrency, limits.concurrency, limits.rpm, limits.tpm, Breaker(provider)
                )
            return self._limiters[provider]


@dataclass(slots=True)
class Provider:
    """All models of one provider share its limiter, and the threads that wait for its answers."""

    name: str
    limiter: Limiter
    pool: ThreadPoolExecutor
    _under_way: int = 0
    """Requests that were submitted and have not returned."""

    @property
    def breaker(self) -> Breaker:
        return self.limiter.breaker

    @property
    def has_room(self) -> bool:
        """Whether it accepts more. As many requests wait as are in flight, so that the provider is
        not idle during the next claim."""
        return self._under_way < 2 * self.limiter.limit

    def submit(self, request: Callable[[], Result]) -> Future[Result]:
        """Make a request in a thread of the pool. Call `returned` when its result is taken."""
        self._under_way += 1
        return self.pool.submit(request)

    def returned(self) -> None:
        """Count that a request has returned."""
        self._under_way -= 1


@dataclass(slots=True)
class Opened:
    """A model that is open, behind its provider."""

    provider: Provider
    breaker: Breaker = field(default_factory=Breaker)
    answered_at: float = -math.inf
    """When it last gave a usable answer."""

    def fail(self, error: ProviderRefused | Transient, since: float) -> None:
        """Stop using the model, and its provider unless that has answered since then."""
        self.breaker.fail(error)
        is_of_the_model = isinstance(error, ProviderRefused) and error.of_the_model
        if not is_of_the_model and self.provider.limiter.answered_at < since:
            self.provider.limiter.give_up(error)

    def answers_others(
        self, failure: Transient | ProviderRefused, probe: Callable[[], object]
    ) -> bool:
        """Whether it answers other requests than the one that failed. It is probed several times,
        since some providers fail now and then; never during an outage of the whole provider."""
        if isinstance(failure, Transient) and (
            is_rate_limit(failure) or (self.provider.limiter.is_out and not failure.of_the_input)
        ):
            return False
        began = time.monotonic()
        for _ in range(PROBES):
            try:
                probe()
                return True
            except Transient:
                continue
            except ProviderRefused:  # answers that arrive now were asked for before
                return False
        return self.answered_at > began

    def answered(self) -> None:
        """Note that it gave a usable answer."""
        self.answered_at = time.monotonic()
        self.breaker.close()


def guarded(model: str, call: Callable[[], Result]) -> Callable[[], Result]:
    """Wrap `call` so that it raises only ProviderErrors, and its jobs are released."""

    def checked() -> Result:
        try:
            return call()
        except ProviderError:
            raise
        except Exception as error:  # its message may repeat a text or a secret
            raise bad_answer(f"{model} failed with {type(error).__name__}") from None

    return checked


def bad_answer(cause: str) -> Transient:
    """The error for an answer that cannot be used."""
    return Transient(cause, error_class="bad_answer", of_the_input=True)
