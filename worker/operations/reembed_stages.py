"""The stages of a re-embedding: the new vectors are filled, indexed and verified.

A stage ends with a step in the database. A run that was interrupted is repeated, and goes on after
the last step that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from worker.engine.progress import Progress
from worker.errors import WorkerError
from worker.evaluation.judgments import JudgedQuery
from worker.observers.composite import CompositeObserver
from worker.operations.backfill import backfill_column
from worker.operations.indexing import build_index
from worker.operations.processing import prepare, run_options
from worker.operations.verify import verify
from worker.queue import CallSource, Reembedding, ReembeddingState
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.reembedding.indexing import IndexProgress
from worker.reembedding.preflight import find_reembedding_facts
from worker.settings import Settings
from worker.verification.result import Verification

BACKFILL_BATCH = 1000  # rows in one transaction
LOOK_AGAIN = 2.0  # seconds, while other workers hold jobs, or jobs are due later

ShowIndex = Callable[[IndexProgress], None]


@dataclass(frozen=True, slots=True)
class StageOptions:
    """How the stages are run. `batch_size` and `delay_ms` as in a run over all jobs.

    With `verifies`, the new vectors are compared with the old ones: `sample` texts are embedded
    again, and `queries` searched for in both.
    """

    batch_size: int | None = None
    delay_ms: int | None = None
    verifies: bool = True
    sample: int = 100
    queries: Sequence[JudgedQuery] = ()


def stage_options(config: EmbeddingMigrationConfig) -> StageOptions:
    """Return how a configuration wants the stages to be run."""
    return StageOptions(
        batch_size=config.batch_size,
        delay_ms=round(config.delay_between_batches * 1000) or None,
        verifies=config.verification_enabled,
    )


@dataclass(slots=True)
class Reembedder:
    """Runs the stages of a re-embedding, until it is ready or `stop` is set.

    `on_stage` is called when one begins. `show_fill` observes a run over that many jobs, and
    `show_index` the build of an index. `verification` is the latest.
    """

    queue: PostgresQueue
    settings: Settings
    options: StageOptions = StageOptions()
    source: CallSource = "api"
    stop: Event = field(default_factory=Event)
    on_stage: Callable[[Reembedding], None] = lambda _: None
    show_fill: Callable[[int], AbstractContextManager[Progress]] = lambda _: nullcontext(
        CompositeObserver()
    )
    show_index: Callable[[], AbstractContextManager[ShowIndex]] = lambda: nullcontext(
        lambda _: None
    )
    verification: Verification | None = None

    def run(self, reembedding: Reembedding) -> Reembedding:
        """Run the stages that are left. Returns the re-embedding as it is then: also if a stage did
        not succeed, with the problem, or if somebody else paused or cancelled it.

        Raises what a stage raises; the problem is recorded before.
        """
        while not self.stop.is_set() and (stage := self._stages.get(reembedding.state)):
            self.on_stage(reembedding)
            before = reembedding
            try:
                reembedding = stage(before)
            except WorkerError as error:
                reembedding = self._find_out(before, error)
            if reembedding.state == before.state:
                break
        return reembedding

    @property
    def _stages(self) -> Mapping[ReembeddingState, Callable[[Reembedding], Reembedding]]:
        return {"filling": self._fill, "indexing": self._index, "verifying": self._verify}

    def _fill(self, reembedding: Reembedding) -> Reembedding:
        """Embed all texts, with whatever other workers do."""
        table, column = reembedding.table_name, reembedding.new_column
        target = self.queue.target(table, column)
        backfill_column(self.queue, target, BACKFILL_BATCH, stop=self.stop)
        if reembedding.is_cast:
            self._cast(reembedding)
        options = run_options(self.settings, self.options.batch_size, self.options.delay_ms)
        while not self.stop.is_set():
            processing = prepare(
                self.queue, self.settings, table=table, column=column, options=options
            )
            with self.show_fill(processing.count_jobs()) as observer:
                result = processing.run(self.stop, observer)
            reembedding = self._look(reembedding)
            progress = self.queue.reembedding_progress(reembedding)
            if reembedding.state != "filling":  # somebody paused or cancelled it
                return reembedding
            if not (progress.pending or self.stop.is_set()):
                figures = {"done": progress.done, "failed": progress.failed}
                return self._advance(reembedding, "indexing", figures)
            if result.errors:
                raise result.errors[0]
            if result.ended:  # workers are paused
                return self._record(reembedding, result.ended)
            self.stop.wait(LOOK_AGAIN)
        return reembedding

    def _cast(self, reembedding: Reembedding) -> None:
        """Cast the old vectors. Then workers embed the texts that were edited meanwhile."""
        looked_to = 0
        while not self.stop.is_set() and (
            cast := self.queue.cast(reembedding, looked_to, BACKFILL_BATCH)
        ):
            looked_to = cast.looked_to

    def _index(self, reembedding: Reembedding) -> Reembedding:
        """Build the indexes that the old vectors have."""
        table = reembedding.table_name
        new = self.queue.target(table, reembedding.new_column)
        for statement in self.queue.full_text_statements(new):
            self.queue.run_script(statement)
        facts = find_reembedding_facts(
            self.queue.database,
            self.queue.relation(table),
            reembedding.old_column,
            reembedding.dimensions,
        )
        if not facts.index_is_valid:  # also if there is none
            return self._advance(reembedding, "verifying", {"index": None})
        with self.show_index() as on_progress:
            result = build_index(
                self.queue,
                table,
                reembedding.new_column,
                like=reembedding.old_column,
                stop=self.stop,
                on_progress=on_progress,
            )
        if result.outcome == "interrupted":
            return reembedding
        return self._advance(reembedding, "verifying", {"index": result.index})

    def _verify(self, reembedding: Reembedding) -> Reembedding:
        """Compare the new vectors with their texts and with the old ones."""
        if not self.options.verifies:
            return reembedding
        self.verification = result = self.verify(reembedding)
        return self.judge(reembedding, result)

    def verify(self, reembedding: Reembedding) -> Verification:
        """Compare the new vectors with their texts and with the old ones. Changes nothing."""
        is_comparable = self._have_vectors(reembedding)
        return verify(
            self.queue,
            self.settings,
            reembedding.table_name,
            reembedding.new_column,
            against=reembedding.old_column if is_comparable else None,
            queries=self.options.queries if is_comparable else (),
            sample=self.options.sample,
        )

    def judge(self, reembedding: Reembedding, result: Verification) -> Reembedding:
        """Let new vectors be ready if they passed, and no longer ready if they did not.

        Vectors that serve already go on serving.
        """
        figures = {"checks": {check.name: check.status for check in result.checks}}
        if result.passed and reembedding.state == "verifying":
            return self._advance(reembedding, "ready", figures)
        if not result.passed and reembedding.state in ("verifying", "ready"):
            return self._advance(reembedding, "verifying", {"problem": result.summary, **figures})
        return reembedding

    def _have_vectors(self, reembedding: Reembedding) -> bool:
        """Whether there are old and new vectors: the old model may never have worked."""
        columns = (reembedding.old_column, reembedding.new_column)
        targets = [self.queue.target(reembedding.table_name, column) for column in columns]
        return all(self.queue.sample_vectors(target, self.options.sample) for target in targets)

    def _find_out(self, before: Reembedding, error: WorkerError) -> Reembedding:
        """Return the re-embedding if somebody else moved it, which ends a stage with any error.

        Otherwise record the error, and raise it.
        """
        now = self._look(before)
        if now.state == before.state:
            self._record(now, error.cause)
            raise error
        return now

    def _look(self, reembedding: Reembedding) -> Reembedding:
        """Return the re-embedding as it is now."""
        return next(each for each in self.queue.reembeddings() if each.id == reembedding.id)

    def _advance(
        self, reembedding: Reembedding, state: ReembeddingState, figures: Mapping[str, Any]
    ) -> Reembedding:
        return self.queue.advance_reembedding(
            reembedding, state, source=self.source, figures=figures
        )

    def _record(self, reembedding: Reembedding, problem: str) -> Reembedding:
        """Record why a stage did not succeed."""
        return self._advance(reembedding, reembedding.state, {"problem": problem})
