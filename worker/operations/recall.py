"""Measures how many of the nearest rows a vector index finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from worker.embedders.base import Vectors
from worker.errors import StatementTimeout
from worker.queue import AdminQueue, Match, Target

TIE = 1e-6  # between two distances: an index may return either row


@dataclass(slots=True)
class IndexRecall:
    """Compares what the vector searches of a column found with the `k` nearest rows."""

    queue: AdminQueue
    target: Target
    model: str | None
    k: int
    _shares: list[float] = field(default_factory=list)
    """Of the nearest rows, how many the vector search returned, for each query."""
    _is_too_slow: bool = False
    """Whether comparing all vectors takes longer than a statement may take."""

    @property
    def mean(self) -> float | None:
        """The mean share of the nearest rows that were found; None: it is not known."""
        return None if self._is_too_slow or not self._shares else fmean(self._shares)

    def search(self, vector: Vectors, *, exact: bool = False) -> list[Match]:
        """Return what a vector search finds."""
        return self.queue.search(self.target, vector, self.k, self.model, exact=exact)

    def count(self, vector: Vectors, found: Sequence[Match]) -> None:
        """Compare what a search found with the nearest rows, unless that takes too long."""
        if self._is_too_slow:
            return
        try:
            exact = [match.distance or 0.0 for match in self.search(vector, exact=True)]
        except StatementTimeout:
            self._is_too_slow = True
            return
        if exact:
            hits = sum((match.distance or 0.0) <= exact[-1] + TIE for match in found)
            self._shares.append(min(hits / len(exact), 1.0))
