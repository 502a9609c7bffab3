"""The statistics of a run, and the interface of its observers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Protocol

from worker.engine.histogram import Histogram
from worker.queue import Job, SettledStatus, Usage


@dataclass(slots=True)
class ModelUsage:
    """The use of one model. None: not known so far."""

    completed: int = 0
    failed: int = 0
    requests: int = 0  # usable or not
    tokens: int | None = None
    cost: float | None = 0.0  # US dollars
    request_times: Histogram = field(default_factory=Histogram)
    lags: Histogram = field(default_factory=Histogram)

    def add(self, requests: int, tokens: int | None, cost: float | None) -> None:
        """Count requests to a model, and what they cost: US dollars, None if that is not known."""
        self.requests += requests
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if self.cost is not None and cost is not None:
            self.cost += cost
        elif requests:
            self.cost = None


@dataclass(slots=True)
class RunStats:
    """Counts of one run. Every claimed job is in exactly one of the first seven."""

    completed: int = 0
    unchanged: int = 0  # the stored vector was right already: no call to the model
    skipped: int = 0  # nothing to embed
    dropped: int = 0  # the record is gone
    failed: int = 0
    stale: int = 0  # edited or taken over while it was embedded: its vector was discarded
    released: int = 0  # due again later
    cached: int = 0  # texts whose vector was in the cache
    passages_embedded: int = 0  # whose vector was stored
    passages_reused: int = 0  # of completed documents, that needed no new vector
    models: defaultdict[str, ModelUsage] = field(default_factory=lambda: defaultdict(ModelUsage))
    started: float = field(default_factory=time.monotonic)
    rested: float = 0.0  # seconds in which there was nothing to do, or nothing allowed

    @property
    def requests(self) -> int:
        """Requests to models, whatever their result."""
        return sum(spent.requests for spent in self.models.values())

    @property
    def tokens(self) -> int | None:
        """Tokens that models have read, or None if no model has reported them."""
        known = [spent.tokens for spent in self.models.values() if spent.tokens is not None]
        return sum(known) if known else None

    @property
    def cost(self) -> float | None:
        """US dollars, or None if the price of a model is not known."""
        costs = [spent.cost for spent in self.models.values()]
        return None if None in costs else sum(cost for cost in costs if cost)

    @property
    def usage(self) -> list[Usage]:
        """The use of each model, in the form of a report to the queue."""
        return [
            Usage(
                model,
                spent.completed,
                spent.failed,
                spent.requests,
                spent.tokens or 0,
                spent.cost,
                self.elapsed - self.rested,
                spent.request_times.trimmed,
                spent.lags.trimmed,
            )
            for model, spent in self.models.items()
        ]

    @property
    def processed(self) -> int:
        """Jobs that ended, successfully or not."""
        return self.completed + self.unchanged + self.skipped + self.dropped + self.failed

    @property
    def taken(self) -> int:
        """Jobs that were claimed and are no longer held."""
        return self.processed + self.stale + self.released

    @property
    def settled(self) -> int:
        """Jobs that made progress; released jobs wait as before."""
        return self.processed + self.stale

    @property
    def success_rate(self) -> float:
        """Percent of the processed jobs that did not fail, in whole tenths and rounded down: with
        one failure among millions it is 99.9. 100 where there were none."""
        succeeded = self.processed - self.failed
        return (1000 * succeeded // self.processed) / 10 if self.processed else 100.0

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def rows_per_second(self) -> float:
        """Processed jobs a second since the run began, without idle time."""
        return self.processed / max(self.elapsed - self.rested, 1e-9)

    def add_settled(self, settled: Counter[SettledStatus]) -> None:
        """Count the jobs that a claim settled."""
        self.unchanged += settled["completed"]
        self.skipped += settled["skipped"]
        self.dropped += settled["dropped"]
        self.failed += settled["failed"]
        self.released += settled["pending"]

    def add_requests(
        self,
        model: str,
        requests: int,
        tokens: int | None,
        cost: float | None,
        times: Histogram,
    ) -> None:
        """Count requests to a model, what they cost, and how long its answers took."""
        spent = self.models[model]
        spent.add(requests, tokens, cost)
        spent.request_times.add(times)

    def add_stale(self, jobs: int = 1) -> None:
        """Count jobs whose result was discarded."""
        self.stale += jobs

    def add_released(self, jobs: int) -> None:
        """Count jobs that were released."""
        self.released += jobs

    def add_cached(self, texts: int) -> None:
        """Count texts whose vector was in the cache."""
        self.cached += texts

    def add_staged(self, passages: int) -> None:
        """Count passages whose vector was stored."""
        self.passages_embedded += passages

    def add_reused(self, passages: int) -> None:
        """Count passages that needed no new vector."""
        self.passages_reused += passages

    def add_rest(self, seconds: float) -> None:
        """Count time in which there was nothing to do, or nothing allowed."""
        self.rested += seconds

    def add_completed(self, job: Job) -> None:
        """Count a job that has its vector now."""
        self.completed += 1
        spent = self.models[job.model]
        spent.completed += 1
        if job.lag is not None:
            spent.lags.count(job.lag)

    def add_failed(self, model: str, jobs: int = 1) -> None:
        """Count jobs that failed for good."""
        self.failed += jobs
        self.models[model].failed += jobs


class Progress(Protocol):
    """An observer of a run."""

    def update(self, stats: RunStats) -> None:
        """Called after every batch, by the thread that runs the pipeline."""

    def pulse(self) -> None:
        """Called by that thread every few seconds, to show that the run is not stuck."""

    def event(self, name: str, **fields: object) -> None:
        """Called by that thread for each event of EVENTS. Must not block."""
