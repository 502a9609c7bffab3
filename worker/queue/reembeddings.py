"""Re-embeddings: another model for a column, beside the one it has. See docs/sql-api.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from worker.queue.audit import AUDIT_IN_ONE_CALL, CallSource, Source
from worker.queue.calls import Calls
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.targets import Store

ReembeddingState = Literal[
    "filling", "paused", "indexing", "verifying", "ready", "swapped", "finished", "cancelled"
]
VectorKind = Literal["vector", "halfvec"]


@dataclass(frozen=True, slots=True)
class Reembedding:
    """A re-embedding of a column, by the name that people give the column.

    `old_target` and `new_target` are the ids of its targets, also after one is gone, and
    `old_column` and `new_column` the names under which they are watched. `dimensions`
    are those of the new vectors, `config` is what was asked for. `problem` is why the present stage
    failed last. While it is swapped, `swapped_at` says since when; `ended_at`, when it was finished
    or cancelled.
    """

    id: int
    table_name: str
    embedding_column: str
    old_target: int
    new_target: int
    old_column: str
    new_column: str
    state: ReembeddingState
    old_model: str | None
    new_model: str
    dimensions: int
    config: dict[str, Any] | None
    problem: str | None
    started_at: datetime
    updated_at: datetime
    swapped_at: datetime | None
    ended_at: datetime | None

    @property
    def is_cast(self) -> bool:
        """Whether the new vectors are the old ones with another type."""
        return bool(self.config and self.config.get("cast"))

    @property
    def named(self) -> str:
        """The column as people name it, with its table."""
        return f"{self.table_name}.{self.embedding_column}"


@dataclass(frozen=True, slots=True)
class Cast:
    """How many vectors of a batch of jobs, up to the job `looked_to`, were cast."""

    looked_to: int
    filled: int


@dataclass(frozen=True, slots=True)
class ReembeddingEvent:
    """A step of a re-embedding: who took it, when and where, and what was measured then."""

    id: int
    reembedding_id: int
    at: datetime
    actor: str
    source: Source
    event: str
    from_state: ReembeddingState | None
    to_state: ReembeddingState
    figures: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ReembeddingProgress:
    """How far the new vectors are. `done` includes rows with nothing to embed.

    `rows` is None if it is not known, and an estimate unless `rows_exact`. `tokens` and `cost` are
    those of the new model since the start, in the last 7 days. `eta_seconds` is None if no worker
    embeds with it now.
    """

    rows: int | None
    rows_exact: bool
    done: int
    pending: int
    failed: int
    tokens: int | None
    cost: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class ReembeddingUsage:
    """What edits took with a model since a swap. `cost` in US dollars; None: it is not known."""

    model: str
    texts: int
    tokens: int
    cost: float | None


class ReembeddingReports(Calls):
    """What anybody with the rights of a worker can read."""

    def reembeddings(self) -> list[Reembedding]:
        """Return all re-embeddings, the earliest first."""
        return self._read(Reembedding, "embedding_reembeddings", "id")

    def reembedding_events(self, reembedding: Reembedding) -> list[ReembeddingEvent]:
        """Return the latest steps of a re-embedding, the earliest of them first."""
        events = self._rows(
            ReembeddingEvent,
            "list_embedding_audit",
            only_table=None,
            only_reembedding=reembedding.id,
            max_rows=AUDIT_IN_ONE_CALL,
            before_id=None,
        )
        return events[::-1]

    def reembedding_progress(self, reembedding: Reembedding) -> ReembeddingProgress:
        return self._rows(ReembeddingProgress, "reembedding_progress", id=reembedding.id)[0]

    def reembedding_usage(self, reembedding: Reembedding) -> list[ReembeddingUsage]:
        """Return what edits took since the swap, with the old model and with the new one."""
        return self._rows(ReembeddingUsage, "reembedding_usage", id=reembedding.id)


class ReembeddingCalls(Calls):
    """The steps of a re-embedding, for the owner of the tables.

    Each raises SettingsError if the re-embedding is not in a state that allows it, and Busy if it
    did not get a lock within the lock_timeout of the session.
    """

    def start_reembedding(
        self,
        relation: str,
        column: str,
        model: str,
        dimensions: int,
        *,
        document_prompt: str | None = None,
        query_prompt: str | None = None,
        config: Mapping[str, Any] | None = None,
        source: CallSource = "api",
    ) -> Reembedding:
        """Begin to embed a column with another model. `relation` is the table as SQL names it."""
        return self._rows(
            Reembedding,
            "start_reembedding",
            relation=relation,
            embedding_column=column,
            model=model,
            dimensions=dimensions,
            document_prompt=document_prompt,
            query_prompt=query_prompt,
            config=None if config is None else dict(config),
            source=source,
        )[0]

    def convert(
        self,
        relation: str,
        column: str,
        kind: VectorKind,
        source: CallSource = "api",
        store: Store | None = None,
    ) -> Reembedding:
        """Begin to give the vectors of a column another type, or another store.

        `relation` as SQL names it.
        """
        return self._rows(
            Reembedding,
            "convert_embeddings",
            relation=relation,
            embedding_column=column,
            kind=kind,
            source=source,
            store=store,
        )[0]

    def cast(self, reembedding: Reembedding, after: int, batch: int) -> Cast | None:
        """Cast vectors of a column that is converted, those of the next jobs.

        None: there are no more, and workers embed what is left.
        """
        found = self._rows(
            Cast,
            "cast_embeddings",
            table_name=reembedding.table_name,
            embedding_column=reembedding.embedding_column,
            after_id=after,
            batch=batch,
        )
        return found[0] if found else None

    def advance_reembedding(
        self,
        reembedding: Reembedding,
        next: ReembeddingState,
        *,
        source: CallSource = "api",
        figures: Mapping[str, Any] | None = None,
    ) -> Reembedding:
        """Move a re-embedding from the state it was seen in to its next stage, or back to filling.

        The same state again records `figures["problem"]`.
        """
        return self._rows(
            Reembedding,
            "advance_reembedding",
            table_name=reembedding.table_name,
            embedding_column=reembedding.embedding_column,
            expected=reembedding.state,
            next=next,
            source=source,
            figures=None if figures is None else dict(figures),
        )[0]

    def pause_reembedding(self, table: str, column: str, **step: Any) -> Reembedding:
        """Stop filling the new vectors."""
        return self._step("pause_reembedding", table, column, **step)

    def resume_reembedding(self, table: str, column: str, **step: Any) -> Reembedding:
        """Go on filling them."""
        return self._step("resume_reembedding", table, column, **step)

    def swap_reembedding(self, table: str, column: str, **step: Any) -> Reembedding:
        """Let the new target serve. Without `figures={"verified": False}` it has to be ready."""
        return self._step("swap_reembedding", table, column, **step)

    def rollback_reembedding(self, table: str, column: str, **step: Any) -> Reembedding:
        """Let the old target serve again."""
        return self._step("rollback_reembedding", table, column, **step)

    def cancel_reembedding(self, table: str, column: str, **step: Any) -> Reembedding:
        """Drop the new vectors, before a swap."""
        return self._step("cancel_reembedding", table, column, **step)

    def finish_reembedding(self, table: str, column: str, **step: Any) -> Reembedding:
        """Drop the old vectors, after a swap. Raises SettingsError if something depends on them."""
        return self._step("finish_reembedding", table, column, **step)

    def relabel_reembedded(
        self, table: str, column: str, after: int = 0, batch: int = JOBS_IN_ONE_CALL
    ) -> int | None:
        """Give the next jobs of a column the name that `rename_reembedded` is about to give it.

        Returns the last of them; None: there are no more.
        """
        last: int | None = self._call(
            "relabel_reembedded",
            table_name=table,
            embedding_column=column,
            after_id=after,
            batch=batch,
        )
        return last

    def rename_reembedded(
        self, table: str, column: str, *, source: CallSource = "api"
    ) -> Reembedding:
        """Give the new column the name of the old one, after the re-embedding is finished."""
        return self._rows(
            Reembedding,
            "rename_reembedded",
            table_name=table,
            embedding_column=column,
            source=source,
        )[0]

    def _step(
        self,
        function: Any,
        table: str,
        column: str,
        *,
        source: CallSource = "api",
        figures: Mapping[str, Any] | None = None,
    ) -> Reembedding:
        return self._rows(
            Reembedding,
            function,
            table_name=table,
            embedding_column=column,
            source=source,
            figures=None if figures is None else dict(figures),
        )[0]
