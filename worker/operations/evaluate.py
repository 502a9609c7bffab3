"""Measures how well the searches of a column find what people judged relevant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from worker.embedders.base import Concurrency, Reranker, Vectors, cost_of
from worker.embedders.registry import open_reranker
from worker.engine.limiter import Limiter
from worker.engine.retry import always, with_retries
from worker.errors import Rejected, SettingsError
from worker.evaluation.baseline import check_baseline, differences_from
from worker.evaluation.judgments import JudgedQuery
from worker.evaluation.scores import Difference, QueryScore, Score, compare
from worker.operations.opening import opened_model
from worker.operations.queries import Embedded, ask, check_width, total
from worker.operations.recall import IndexRecall
from worker.operations.reranking import CANDIDATES, reorder
from worker.operations.search import only_target
from worker.queue import AdminQueue, Match, Target
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation, for the first `k` records of each search.

    `queries` count; `unjudged` have no relevant record, and do not. Of the `relevant` records,
    `missing` do not exist or have no vector. `index_recall`: the share of the `k` nearest rows that
    the vector search returns; None: there is no vector index, or comparing all vectors took too
    long. `cost`, of the model, and `rerank_cost`, of the `reranker` if there is one, in US dollars;
    None: not known.
    """

    column: str
    model: str
    k: int
    queries: int
    unjudged: int
    relevant: int
    missing: int
    scores: list[Score]
    differences: list[Difference]
    has_vector_index: bool
    index_recall: float | None
    tokens: int | None
    cost: float | None
    reranker: str | None
    rerank_cost: float | None
    by_query: list[QueryScore]


def evaluate(
    queue: AdminQueue,
    settings: Settings,
    queries: Sequence[JudgedQuery],
    *,
    table: str | None = None,
    column: str | None = None,
    k: int = 10,
    full_text_weight: float = 1.0,
    rerank: str | None = None,
    baseline: Sequence[QueryScore] = (),
    on_query: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Search for each query in every way that the column offers, and measure what is found.

    `full_text_weight` is that of the hybrid search. With `rerank`, a reranker like
    `cohere:rerank-v4.0-fast`, the search that it puts in order is measured as well. With
    `by_query` of an earlier evaluation as `baseline`, each search is compared with that as well.
    `on_query` is called after every query, with how many are done. Raises SettingsError unless
    exactly one watched column has these names and it has relevant records, and what its model or
    the reranker raises if that cannot be called.
    """
    return evaluate_target(
        queue,
        settings,
        queries,
        only_target(queue, table, column),
        k=k,
        full_text_weight=full_text_weight,
        rerank=rerank,
        baseline=baseline,
        on_query=on_query,
    )


def evaluate_target(
    queue: AdminQueue,
    settings: Settings,
    queries: Sequence[JudgedQuery],
    target: Target,
    *,
    k: int,
    full_text_weight: float = 1.0,
    rerank: str | None = None,
    baseline: Sequence[QueryScore] = (),
    on_query: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Evaluate a target as `evaluate` does, whichever target of its column serves."""
    judged = [query for query in queries if query.grades]
    check_baseline(baseline, judged)
    relevant, missing = _count_relevant(queue, target, judged)
    with _opened(rerank, settings) as reranker:
        embedded = embed_queries(settings, target, [query.text for query in judged])
        has_index = queue.has_vector_index(target)
        model = target.searched_model or embedded.model
        searches = _Searches(queue, target, model, k, full_text_weight, reranker, has_index)
        searches.run_all(judged, embedded.vectors, on_query)
    compared = compare(judged, searches.rankings, k)
    return Evaluation(
        column=target.named,
        model=embedded.model,
        k=k,
        queries=len(judged),
        unjudged=len(queries) - len(judged),
        relevant=relevant,
        missing=missing,
        scores=compared.scores,
        differences=compared.differences + differences_from(baseline, compared.by_query),
        has_vector_index=has_index,
        index_recall=searches.index_recall,
        tokens=embedded.tokens,
        cost=embedded.cost,
        reranker=rerank,
        rerank_cost=reranker.spent if reranker else 0.0,
        by_query=compared.by_query,
    )


def _count_relevant(
    queue: AdminQueue, target: Target, queries: Sequence[JudgedQuery]
) -> tuple[int, int]:
    """Count the relevant records, and those among them that no vector search can find.

    Raises SettingsError if nothing can be found.
    """
    relevant = sorted({record for query in queries for record in query.grades})
    if not relevant:
        raise SettingsError(
            "no query has a relevant record",
            "Judge some records with a grade above 0. In qrels, use the ids of the queries.",
        )
    missing = queue.missing(target, relevant)
    if len(missing) == len(relevant):
        raise SettingsError(
            f"no relevant record has a vector in {target.embedding_column} of {target.table_name}:"
            f" the ids are like {relevant[0]}",
            "Use the keys of the rows as text, as in embedding_queue.record_id; `worker status`"
            " shows whether the rows are embedded.",
        )
    return len(relevant), len(missing)


# -- the queries as vectors


def embed_queries(settings: Settings, target: Target, queries: Sequence[str]) -> Embedded:
    """Embed queries with the model of the column, in as few requests as its limits allow."""
    name = target.model or settings.embedding_model
    with opened_model(settings, target) as model:
        model.probe(Event(), always, ahead=True)
        try:
            answers = ask(model, queries, "query", Event())
        except Rejected as refusal:
            raise SettingsError(
                f"a query cannot be embedded: {refusal.cause}", "Shorten it, or leave it out."
            ) from None
    vectors = np.stack([vector for vector, _ in answers])
    tokens = total([count for _, count in answers])
    check_width(target, name, vectors.shape[1])
    return Embedded(name, vectors, tokens, cost_of(tokens, model.embedder.price))


# -- the searches


@contextmanager
def _opened(model: str | None, settings: Settings) -> Iterator[Reranker | None]:
    if model is None:
        yield None
        return
    with closing(open_reranker(model, settings)) as reranker:
        yield reranker


@dataclass(slots=True)
class _Searches:
    """The kinds of search that a column offers, and what they found for each query."""

    queue: AdminQueue
    target: Target
    model: str
    k: int
    full_text_weight: float
    reranker: Reranker | None
    has_vector_index: bool
    rankings: dict[str, list[list[str]]] = field(default_factory=dict)
    _recall: IndexRecall = field(init=False)
    _limiter: Limiter = field(default_factory=lambda: Limiter(Concurrency(first=1, most=1)))

    def __post_init__(self) -> None:
        self._recall = IndexRecall(self.queue, self.target, self.model, self.k)

    def run_all(
        self, queries: Sequence[JudgedQuery], vectors: Vectors, on_query: Callable[[int], None]
    ) -> None:
        """Search for every query."""
        for number, (query, vector) in enumerate(zip(queries, vectors, strict=True), start=1):
            self._run(query.text, vector)
            on_query(number)

    def _run(self, words: str, vector: Vectors) -> None:
        nearest = self._by_vector(vector, self.k)
        self._keep("vector", nearest)
        if self.has_vector_index:
            self._recall.count(vector, nearest)
        if self.target.language:
            self._keep("text", self.queue.search(self.target, None, self.k, text=words))
            self._keep("hybrid", self._by_both(words, vector, self.k))
        if self.reranker:
            self._keep("reranked", self._reranked(self.reranker, words, vector))

    @property
    def index_recall(self) -> float | None:
        """The mean share of the nearest rows that the vector search returned."""
        return self._recall.mean

    def _by_vector(self, vector: Vectors, limit: int) -> list[Match]:
        return self.queue.search(self.target, vector, limit, self.model)

    def _by_both(self, words: str, vector: Vectors, limit: int) -> list[Match]:
        return self.queue.search(
            self.target,
            vector,
            limit,
            self.model,
            text=words,
            full_text_weight=self.full_text_weight,
        )

    def _reranked(self, reranker: Reranker, words: str, vector: Vectors) -> list[Match]:
        """Let the reranker put in order what `worker search` would give it."""
        limit = max(self.k, CANDIDATES)
        by_both = bool(self.target.language)
        found = self._by_both(words, vector, limit) if by_both else self._by_vector(vector, limit)

        def score(query: str, texts: Sequence[str]) -> list[float]:
            return with_retries(lambda: reranker.rerank(query, texts), self._limiter, Event())

        return reorder(score, words, found)

    def _keep(self, search: str, found: Sequence[Match]) -> None:
        self.rankings.setdefault(search, []).append([match.record_id for match in found])
