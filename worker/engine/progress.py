"""What a run has done so far."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from worker.queue import SettledStatus


@dataclass(slots=True)
class Tally:
    """Counts of one run. Every job that was taken up is in exactly one of them."""

    completed: int = 0
    unchanged: int = 0  # the stored vector was right already: no call to the model
    skipped: int = 0  # nothing to embed
    dropped: int = 0  # the record is gone
    failed: int = 0
    stale: int = 0  # edited or taken over while it was embedded: its vector was thrown away
    released: int = 0  # given back, due again later
    requests: int = 0  # to models, whatever came of them
    tokens: int | None = None  # None: no provider has said
    cost: float | None = 0.0  # US dollars; None: of a model whose price is not known
    started: float = field(default_factory=time.monotonic)

    @property
    def processed(self) -> int:
        """Jobs that came to an end, well or not."""
        return self.completed + self.unchanged + self.skipped + self.dropped + self.failed

    @property
    def taken(self) -> int:
        """Jobs that were taken up and are out of the worker's hands again."""
        return self.processed + self.stale + self.released

    @property
    def success_rate(self) -> float:
        """Percent of the processed jobs that did not fail; 100 where there were none."""
        return 100.0 * (1 - self.failed / self.processed) if self.processed else 100.0

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def rows_per_second(self) -> float:
        """Processed jobs a second, from the beginning of the run."""
        return self.processed / max(self.elapsed, 1e-9)

    def add_settled(self, settled: Counter[SettledStatus]) -> None:
        """Count what a claim settled by itself."""
        self.unchanged += settled["completed"]
        self.skipped += settled["skipped"]
        self.dropped += settled["dropped"]
        self.failed += settled["failed"]
        self.released += settled["pending"]

    def add_cost(self, requests: int, tokens: int | None, price: float | None) -> None:
        """Count what was asked of a model with a price: US dollars for a million tokens."""
        self.requests += requests
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if price is None or self.cost is None or (tokens is None and price > 0):
            self.cost = None if requests else self.cost
        else:
            self.cost += (tokens or 0) * price / 1e6


class Progress(Protocol):
    """Somebody who watches a run."""

    def update(self, tally: Tally) -> None:
        """Called after every batch, by the thread that runs the pipeline."""

    def remark(self, message: str) -> None:
        """Something happened that a person at the terminal would want to know."""
