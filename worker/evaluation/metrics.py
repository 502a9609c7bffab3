"""How well a ranking agrees with judgments, and whether a difference between rankings is noise.

The definitions are those of trec_eval (`ndcg_cut`, `recall`, `recip_rank`), which BEIR and MTEB
report as well: the gain of a record is its grade (linear, not 2**grade - 1), divided by
log2(rank + 1), and the ideal ranking has all relevant records by descending grade. `grades` are
those of the relevant records of a query: one at least, each above 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

RESAMPLES = 2000
SEED = 20_261_130  # the same files give the same intervals


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return the gain of the first `k` records, discounted by rank: 1 for the best order.

    Source: Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", 2002.
    """
    ideal = sorted(grades.values(), reverse=True)
    return _discounted(grades.get(record, 0) for record in ranking[:k]) / _discounted(ideal[:k])


def recall(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return the share of all relevant records that are among the first `k`."""
    return len(grades.keys() & set(ranking[:k])) / len(grades)


def reciprocal_rank(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return 1 / the rank of the first relevant record; 0 if none is among the first `k`."""
    ranks = (rank for rank, record in enumerate(ranking[:k], start=1) if record in grades)
    return 1 / next(ranks, float("inf"))


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over the queries, with the 95 % interval of the mean of other queries like these."""

    mean: float
    low: float
    high: float


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of some values with its 95 % interval, by the bootstrap.

    Give the differences of two rankings, query by query, to learn whether one is better: if the
    interval contains 0, the difference may be noise. Source: Sakai, "Evaluating Evaluation Metrics
    Based on the Bootstrap", SIGIR 2006.
    """
    given = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(SEED)
    means = [given[random.integers(0, len(given), len(given))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Mean(float(given.mean()), float(low), float(high))


def _discounted(gains: Iterable[int]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, start=1))
