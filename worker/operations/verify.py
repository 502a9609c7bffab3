"""Verifies the vectors of a watched column: all rows by SQL, and a sample against the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from worker.errors import SettingsError, StatementTimeout, Unreachable, WorkerError
from worker.evaluation.judgments import JudgedQuery
from worker.evaluation.scores import QueryScore
from worker.operations.comparing import SampledModel
from worker.operations.evaluate import Evaluation, embed_queries, evaluate_target
from worker.operations.opening import key_of
from worker.operations.recall import IndexRecall
from worker.queue import AdminQueue, StoredVector, Target
from worker.settings import Settings
from worker.verification.comparison import overlap
from worker.verification.lengths import UsualLength, usual_length
from worker.verification.result import Check, Verification
from worker.verification.rows import Findings, Watched, row_checks
from worker.verification.samples import (
    check_index,
    check_overlap,
    check_queries,
    check_sample,
    count_excluded,
    nothing_to_compare,
)

MOST_SEARCHES = 50  # for the recall of the index and the overlap: each compares all vectors


def verify(
    queue: AdminQueue,
    settings: Settings,
    table: str,
    column: str = "embedding",
    *,
    against: str | None = None,
    queries: Sequence[JudgedQuery] = (),
    sample: int = 100,
    k: int = 10,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Verify the vectors of a watched column. It writes nothing.

    All rows are compared with their jobs, and `sample` random texts are embedded again. With
    another column of the table to compare with (`against`): the nearest `k` rows in both, and what
    `queries` find in both. `on_rows` is called after each range, with how many rows were read so
    far. Raises SettingsError unless the columns are watched, and DatabaseError if rows cannot be
    read; a model that cannot be called leaves a check that is not conclusive.
    """
    target = queue.target(table, column)
    other = _other(queue, target, against, queries)
    return _Verifier(queue, settings, target, other, sample, k).run(queries, on_rows)


def compare_with_model(queue: AdminQueue, settings: Settings, target: Target, sample: int) -> Check:
    """Embed some texts of a column again, and compare the vectors. A paid model charges for that.

    The figures `lowest` and `gate` of the check are cosines. A model that cannot be called leaves
    a check that is not conclusive.
    """
    return _Verifier(queue, settings, target, None, sample, k=1).compare_sample()


def _other(
    queue: AdminQueue, target: Target, against: str | None, queries: Sequence[JudgedQuery]
) -> Target | None:
    """Return the column to compare with. Raises SettingsError if there is none."""
    if against is None:
        if queries:
            raise SettingsError(
                "the queries are for a comparison of two columns",
                "Name the other one (--against COLUMN), or use `worker evaluate`.",
            )
        return None
    if against == target.embedding_column:
        raise SettingsError("a column cannot be compared with itself", "Name another column.")
    return queue.target(target.table_name, against)


@dataclass(slots=True)
class _Verifier:
    """The checks of one column, over a sample that they share."""

    queue: AdminQueue
    settings: Settings
    target: Target
    other: Target | None
    sample: int
    k: int
    _stored: list[StoredVector] = field(default_factory=list)
    _model: SampledModel = field(init=False)

    def __post_init__(self) -> None:
        self._model = SampledModel(self.settings, key_of(self.target, self.settings))

    def run(self, queries: Sequence[JudgedQuery], on_rows: Callable[[int], None]) -> Verification:
        target, other = self.target, self.other
        self._stored = self.queue.sample_vectors(target, self.sample)
        usual = usual_length([stored.vector for stored in self._stored])
        findings = self._findings(usual, on_rows)
        checks = [self._watched_check(), *row_checks(findings, self._watched, usual)]
        checks.append(self._sample_check(findings.counts["vectors"]))
        checks.append(self._made("index", self._index_check))
        if other:
            checks.append(self._made("overlap", lambda: self._overlap_check(other)))
        if other and queries:
            checks.append(self._made("queries", lambda: self._queries_check(other, queries)))
        against = other.named if other else None
        return Verification.of(target.named, target.model, against, checks, self._model.spent)

    def compare_sample(self) -> Check:
        """Compare a sample with the model, and make no other check."""
        self._stored = self.queue.sample_vectors(self.target, self.sample)
        return self._sample_check(len(self._stored))

    @property
    def _watched(self) -> Watched:
        target = self.target
        is_in_chunks = target.chunk_format is not None
        return Watched(target.table_name, target.embedding_column, is_in_chunks)

    def _watched_check(self) -> Check:
        """Check that the column is kept in step at all."""
        if self.target.problem:
            cure = f"Run `worker watch {self._watched.table} …` again."
            return Check("watched", "problem", {}, f"suspended: {self.target.problem}", cure)
        if not self.target.enabled:
            return Check("watched", "note", {}, "the column is disabled: its jobs are not claimed")
        return Check("watched")

    def _made(self, name: str, make: Callable[[], Check]) -> Check:
        """Return a check, also if the database or a model does not allow to make it."""
        try:
            return make()
        except WorkerError as error:
            if isinstance(error, Unreachable) and not isinstance(error, StatementTimeout):
                raise
            return Check.not_made(name, error.cause, error.hint)

    # -- all rows

    def _findings(self, usual: UsualLength | None, on_rows: Callable[[int], None]) -> Findings:
        """Count what all rows have, and of texts in chunks all chunks."""
        findings = Findings()
        self._walk(findings, usual, on_rows, of_chunks=False)
        if self._watched.is_in_chunks:
            of_chunks = Findings()
            self._walk(of_chunks, usual, on_rows, of_chunks=True)
            findings.add("chunks", of_chunks.counts["rows"], [])
            for finding in ("overwritten", "wrong_width", "zero", "odd_length"):
                found = of_chunks.counts[finding]
                findings.add(finding, found, of_chunks.record_ids.get(finding, []))
        return findings

    def _walk(
        self,
        findings: Findings,
        usual: UsualLength | None,
        on_rows: Callable[[int], None],
        *,
        of_chunks: bool,
    ) -> None:
        after, is_done = None, False
        while not is_done:
            found = self.queue.verify(
                self.target,
                after,
                of_chunks=of_chunks,
                width=self._width,
                usual_length=usual.median if usual else None,
                tolerance=usual.tolerance if usual else None,
            )
            for each in found:
                findings.add(each.finding, each.found, each.record_ids)
            after = found[0].looked_to
            is_done = after is None
            on_rows(findings.counts["rows"])

    @property
    def _width(self) -> int | None:
        """The width of the column; without one, that of most vectors of the sample."""
        widths = [len(stored.vector) for stored in self._stored]
        return self.target.dimensions or max(widths, key=widths.count, default=None)

    @property
    def _sound(self) -> list[StoredVector]:
        """The sampled vectors that can be compared with others."""
        width = self._width
        return [each for each in self._stored if len(each.vector) == width and each.vector.any()]

    # -- the sample

    def _sample_check(self, vectors: int) -> Check:
        """Embed the texts of the sample again, and compare."""
        excluded = count_excluded([stored.excluded for stored in self._stored])
        comparable = {each.record_id: each for each in self._sound if each.content}
        if not comparable:
            return nothing_to_compare(excluded, vectors)
        return self._made(
            "sample",
            lambda: check_sample(
                self._model.compare(list(comparable.values())), excluded, self._watched
            ),
        )

    # -- searches

    def _index_check(self) -> Check:
        """Measure how many of the nearest rows the index finds."""
        has_index = self.queue.has_vector_index(self.target)
        recall = IndexRecall(self.queue, self.target, self.target.searched_model, self.k)
        vectors = [stored.vector for stored in self._sound[:MOST_SEARCHES]] if has_index else []
        for vector in vectors:
            recall.count(vector, recall.search(vector))
        return check_index(has_index, recall.mean, len(vectors), self.k)

    def _overlap_check(self, other: Target) -> Check:
        """Compare the neighbours of sampled rows in both columns."""
        ids = list(dict.fromkeys(stored.record_id for stored in self._sound))[:MOST_SEARCHES]
        ours = self._neighbours(self.target, ids)
        theirs = self._neighbours(other, list(ours))
        overlaps = [overlap(ours[record], theirs[record]) for record in theirs]
        return check_overlap("overlap", overlaps, self.k)

    def _neighbours(self, target: Target, record_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the nearest records of each record, without itself."""
        return {
            stored.record_id: [
                match.record_id
                for match in self.queue.search(
                    target, stored.vector, self.k + 1, target.searched_model
                )
                if match.record_id != stored.record_id
            ][: self.k]
            for stored in self.queue.sample_vectors(target, len(record_ids), record_ids)
            if stored.vector.any()
        }

    def _queries_check(self, other: Target, queries: Sequence[JudgedQuery]) -> Check:
        """Compare what queries find in both columns: by judgments, if there are any."""
        if not any(query.grades for query in queries):
            found = [self._found(target, queries) for target in (self.target, other)]
            overlaps = [overlap(one, another) for one, another in zip(*found, strict=True)]
            return check_overlap("queries", overlaps, self.k)
        before = self._evaluation(other, queries, ())
        now = self._evaluation(self.target, queries, before.by_query)
        [ndcg] = [
            each.ndcg
            for each in now.differences
            if (each.search, each.other) == ("vector", "baseline")
        ]
        return check_queries(ndcg.mean, ndcg.low, ndcg.high, now.queries, self.k)

    def _evaluation(
        self, target: Target, queries: Sequence[JudgedQuery], baseline: Sequence[QueryScore]
    ) -> Evaluation:
        return evaluate_target(
            self.queue, self.settings, queries, target, k=self.k, baseline=baseline
        )

    def _found(self, target: Target, queries: Sequence[JudgedQuery]) -> list[list[str]]:
        """Return the records that each query finds."""
        embedded = embed_queries(self.settings, target, [query.text for query in queries])
        model = target.searched_model or embedded.model
        return [
            [match.record_id for match in self.queue.search(target, vector, self.k, model)]
            for vector in embedded.vectors
        ]
