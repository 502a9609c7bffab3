"""Compares kinds of search over the same judged queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Self

from worker.evaluation.judgments import JudgedQuery
from worker.evaluation.metrics import Mean, mean_of, ndcg, recall, reciprocal_rank

Rankings = Mapping[str, Sequence[Sequence[str]]]
"""By kind of search: for each query, the ids of the records that it found, best first."""


@dataclass(frozen=True, slots=True)
class Score:
    """How well a kind of search did, as means over the queries."""

    search: str
    ndcg: Mean
    recall: float
    mrr: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more nDCG a kind of search has than another one, compared query by query."""

    search: str
    other: str
    ndcg: Mean
    may_be_noise: bool
    """Whether the interval contains 0: other queries might show the opposite."""

    @classmethod
    def of(cls, search: str, other: str, pairs: Iterable[tuple[float, float]]) -> Self:
        """Compare the nDCG of two searches for each query."""
        mean = mean_of([ours - theirs for ours, theirs in pairs])
        return cls(search, other, mean, may_be_noise=mean.low <= 0 <= mean.high)


@dataclass(frozen=True, slots=True)
class QueryScore:
    """The nDCG of each kind of search for one query."""

    id: str
    query: str
    ndcg: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What kinds of search reached for the same queries, for the first `k` records of each."""

    scores: list[Score]
    differences: list[Difference]
    by_query: list[QueryScore]


def compare(queries: Sequence[JudgedQuery], rankings: Rankings, k: int) -> Comparison:
    """Compare kinds of search, the later ones with the earlier ones."""
    ndcgs = {search: _each(ndcg, queries, found, k) for search, found in rankings.items()}
    return Comparison(
        [
            Score(
                search,
                mean_of(ndcgs[search]),
                fmean(_each(recall, queries, found, k)),
                fmean(_each(reciprocal_rank, queries, found, k)),
            )
            for search, found in rankings.items()
        ],
        [
            Difference.of(search, other, zip(ndcgs[search], ndcgs[other], strict=True))
            for other, search in combinations(rankings, 2)
        ],
        [
            QueryScore(query.id, query.text, {search: ndcgs[search][place] for search in ndcgs})
            for place, query in enumerate(queries)
        ],
    )


def _each(
    measure: Callable[[Sequence[str], Mapping[str, int], int], float],
    queries: Sequence[JudgedQuery],
    found: Sequence[Sequence[str]],
    k: int,
) -> list[float]:
    """Measure the ranking of each query."""
    return [
        measure(ranking, query.grades, k) for ranking, query in zip(found, queries, strict=True)
    ]
