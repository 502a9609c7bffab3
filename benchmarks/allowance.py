"""Many workers with one rate limit, in virtual time: the worker's own code decides how much each
claims and when each request is sent; only the provider, the queue and the clock are made up."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from threading import Event
from typing import Any, cast

from benchmarks.provider import Bucket
from worker.embedders.base import Concurrency, Measure, RateLimitStatus
from worker.engine.claiming import ClaimBudget
from worker.engine.documents import Documents
from worker.engine.in_flight import InFlight
from worker.engine.limiter import ATTENTION, Limiter
from worker.engine.models import Models
from worker.engine.options import RunOptions
from worker.engine.progress import RunStats
from worker.engine.providers import Limiters, Provider
from worker.engine.throttling import FULL, RunThrottle
from worker.errors import Transient

LATENCY = (0.15, 0.25)  # seconds
TOKENS = 100  # of a request; only requests are limited
CONCURRENCY = Concurrency(first=4, most=32)
CLAIM_TIME = 0.01  # seconds
STARTED_WITHIN = 1.0  # seconds, as pods that are scaled up


@dataclass(slots=True)
class Clock:
    """Virtual time, and what happens when."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def run(self, until: float) -> None:
        """Let all happen until then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()


@dataclass(slots=True)
class Allowance:
    """A provider that allows `rpm` requests a minute, and says so unless it is `silent`."""

    clock: Clock
    rpm: float
    silent: bool
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(self.rpm, self.clock.now)

    def ask(self) -> bool:
        """Whether a request that arrives now is answered."""
        return self._bucket.take(self.clock.now)

    @property
    def said(self) -> dict[Measure, RateLimitStatus]:
        """What the headers of an answer say."""
        if self.silent:
            return {}
        bucket = self._bucket
        return {"requests": RateLimitStatus(self.rpm, int(bucket.tokens), bucket.reset)}


class OneProvider(Models):
    """The models of a worker that uses one provider."""

    provider: Provider

    @property
    def have_room(self) -> bool:
        return self.provider.has_room


class Held(InFlight):
    """The jobs in flight, by their number alone."""

    @property
    def has_requests(self) -> bool:
        return self.jobs > 0


class Worker:
    """A worker that never runs out of jobs. It counts its answers and refusals."""

    def __init__(self, clock: Clock, allowance: Allowance, rpm: int | None) -> None:
        self.answered = self.refused = 0
        self._clock, self._allowance, self._stop = clock, allowance, Event()
        self._limiter = Limiter(CONCURRENCY, rpm=rpm, clock=lambda: clock.now)
        models = OneProvider(cast(Any, None), Limiters())
        models.provider = self._provider = Provider("openai", self._limiter, cast(Any, self))
        self._in_flight = Held()
        throttle = RunThrottle(lambda: FULL, cast(Any, None))
        documents = Documents(cast(Any, None), cast(Any, None))
        self._budget = ClaimBudget(
            RunOptions(), throttle, models, self._in_flight, documents, RunStats(), self._stop
        )
        self._waiting: deque[int] = deque()
        """The requests that wait for their turn, as numbers of jobs."""
        self._wakes_at = float("inf")

    def submit(self, request: Any) -> Any:
        """Queue a request, as the pool of the provider does."""
        self._waiting.append(request)

    def claim(self) -> None:
        """Claim as often as there is room, and pack the jobs into requests."""
        if not self._budget.has_room:
            return
        jobs = max(self._budget.jobs, 0)
        self._in_flight.jobs += jobs
        most = self._budget.options.texts_a_request
        for first in range(0, jobs, most):
            self._provider.submit(cast(Any, min(most, jobs - first)))
        self._clock.after(CLAIM_TIME, self.claim)
        self.send()

    def send(self) -> None:
        """Send what may be sent now, and come back when more may be."""
        now = self._clock.now
        while self._waiting:
            wait = self._limiter.seconds_until_turn(self._stop, False)
            if wait > 0:
                at = now + min(wait, ATTENTION)
                if at < self._wakes_at or self._wakes_at <= now:
                    self._wakes_at = at
                    self._clock.after(at - now, self.send)
                return
            jobs, was_full = self._waiting.popleft(), self._limiter.begin(TOKENS)
            self._clock.after(random.uniform(*LATENCY), partial(self._end, jobs, now, was_full))

    def _end(self, jobs: int, sent: float, was_full: bool) -> None:
        is_answered = self._allowance.ask()
        refusal = None if is_answered else Transient("limit", error_class="rate_limited")
        self._limiter.end(refusal, sent, TOKENS, was_full)
        if is_answered:
            self.answered += 1
            self._limiter.apply(self._allowance.said, TOKENS, TOKENS)
            self._in_flight.jobs -= jobs
            self._provider.returned()
            self.claim()
        else:
            self.refused += 1
            self._waiting.appendleft(jobs)
        self.send()


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of the allowance that was used, the share of requests that were refused, and the
    answers of the worker with the fewest as a share of the mean."""

    used: float
    refused: float
    least: float


def simulate(
    workers: int,
    rpm: float,
    *,
    silent: bool = False,
    rpm_of_each: int | None = None,
    warm_up: float = 120.0,
    seconds: float = 300.0,
) -> Shares:
    """Let workers share an allowance of `rpm`, and count after `warm_up` seconds. `rpm_of_each` is
    the EMBEDDING_RPM of each."""
    random.seed(1)
    clock = Clock()
    allowance = Allowance(clock, rpm, silent)
    all_workers = [Worker(clock, allowance, rpm_of_each) for _ in range(workers)]
    for worker in all_workers:
        clock.after(random.uniform(0, STARTED_WITHIN), worker.claim)
    clock.run(warm_up)
    for worker in all_workers:
        worker.answered = worker.refused = 0
    clock.run(warm_up + seconds)
    answered = [worker.answered for worker in all_workers]
    total, refused = sum(answered), sum(worker.refused for worker in all_workers)
    return Shares(
        used=total / (seconds * rpm / 60),
        refused=refused / max(total + refused, 1),
        least=min(answered) * workers / max(total, 1),
    )
