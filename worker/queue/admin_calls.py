"""The calls for the commands: targets, jobs, status, statistics, search and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.database.migrations import check_version
from worker.queue.api_keys import ApiKeyCalls
from worker.queue.audit import AuditCalls, CallSource
from worker.queue.backups import BackupCalls
from worker.queue.batches import BatchCalls
from worker.queue.checks import CheckCalls
from worker.queue.described import DescribeCalls
from worker.queue.jobs import ListedJob, Rechecked, Reprocessed, Requeued, Scope
from worker.queue.portion import JOBS_IN_ONE_CALL, ROWS_VERIFIED_IN_ONE_CALL
from worker.queue.reembeddings import ReembeddingReports
from worker.queue.reports import (
    Estimate,
    Finding,
    QueueProgress,
    Stats,
    StoredVector,
    TargetCoverage,
    TargetStatus,
    VerifiedRows,
)
from worker.queue.search import Match, MatchFunction
from worker.queue.targets import Target, resolve_table, watched_by
from worker.queue.transports import columns_of
from worker.queue.workers import DesiredState, StandingCommand


@dataclass(frozen=True, slots=True)
class _DueJobs:
    """The columns of embedding_status about due jobs. It counts nothing for the others."""

    table_name: str
    embedding_column: str
    enabled: bool
    problem: str | None
    pending: int
    due: int
    due_exact: bool


class AdminCalls(
    ReembeddingReports, ApiKeyCalls, AuditCalls, BackupCalls, BatchCalls, CheckCalls, DescribeCalls
):
    """The AdminQueue protocol, except calls of workers and calls that depend on the transport."""

    def check_schema(self) -> int:
        return check_version(int(self._call("embedding_schema_version")))

    def targets(self, table: str | None = None, column: str | None = None) -> list[Target]:
        read = self._read(Target, "embedding_targets", "table_name", "embedding_column")
        every = [target for target in read if target.kind == "embed"]
        return watched_by(every, None if table is None else self._watched(table, every), column)

    def target(self, table: str, column: str) -> Target:
        return self.targets(table, column)[0]

    def table_name(self, given: str) -> str:
        """Return the name under which a table is watched, for a name as typed.

        A table that was dropped is known by the name it was watched under. Raises SettingsError.
        """
        return self._watched(given, self._read(Target, "embedding_targets"))

    def _watched(self, given: str, every: Sequence[Target]) -> str:
        if any(target.table_name == given for target in every):
            return given
        return self._name_of(given)

    def _name_of(self, given: str) -> str:
        return resolve_table(
            given, lambda name: str(self._call("embedding_table_name", relation=name))
        )

    def backfill(self, target: Target, batch: int) -> int:
        return self._portion.within_time(
            batch,
            lambda size: int(
                self._call(
                    "backfill_embeddings",
                    **target.arguments,
                    batch=size,
                )
            ),
        )

    def requeue(
        self,
        *,
        status: str | None,
        table: str | None = None,
        column: str | None = None,
        record: str | None = None,
        error_class: str | None = None,
        after: int = 0,
        batch: int = JOBS_IN_ONE_CALL,
        failed_before: datetime | None = None,
        source: CallSource = "api",
        ids: Sequence[int] | None = None,
    ) -> Requeued:
        return self._batch(
            Requeued,
            "requeue_embeddings",
            batch,
            only_status=status,
            only_table=table,
            only_column=column,
            only_record=record,
            only_error_class=error_class,
            after_id=after,
            failed_before=failed_before,
            source=source,
            only_ids=None if ids is None else list(ids),
        )

    def list_jobs(
        self, statuses: Sequence[str], table: str | None, column: str | None, limit: int
    ) -> list[ListedJob]:
        return self._rows(
            ListedJob,
            "list_embeddings",
            statuses=list(statuses),
            only_table=table,
            only_column=column,
            max_rows=limit,
        )

    def reprocess(
        self,
        pattern: str,
        table: str | None,
        column: str | None,
        after: int,
        batch: int = JOBS_IN_ONE_CALL,
        *,
        dry_run: bool,
        source: CallSource = "api",
    ) -> Reprocessed:
        return self._batch(
            Reprocessed,
            "reprocess_embeddings",
            batch,
            pattern=pattern,
            only_table=table,
            only_column=column,
            after_id=after,
            dry_run=dry_run,
            source=source,
        )

    def recheck(
        self,
        table: str | None,
        column: str | None,
        after: int,
        batch: int = JOBS_IN_ONE_CALL,
        *,
        dry_run: bool,
    ) -> Rechecked:
        return self._batch(
            Rechecked,
            "recheck_embeddings",
            batch,
            only_table=table,
            only_column=column,
            after_id=after,
            dry_run=dry_run,
        )

    def stats(self, since: timedelta) -> Stats:
        return self._rows(Stats, "embedding_stats", since=since)[0]

    def control(
        self, desired_state: DesiredState, worker: str | None = None, *, source: CallSource = "api"
    ) -> int:
        return int(
            self._call(
                "control_embeddings", desired_state=desired_state, worker=worker, source=source
            )
        )

    def commands(self) -> list[StandingCommand]:
        return self._read(StandingCommand, "embedding_control", "worker")

    def count_due(self, scope: Scope) -> int:
        return sum(
            target.due if target.due_exact else target.pending
            for target in self._read(_DueJobs, "embedding_status")
            if target.enabled
            and not target.problem
            and scope.includes(target.table_name, target.embedding_column)
        )

    def count_pending(self) -> int:
        counts = self._transport.read("embedding_status", {"pending": int, "processing": int})
        return sum(target["pending"] + target["processing"] for target in counts)

    def status(self) -> list[TargetStatus]:
        return self._read(TargetStatus, "embedding_status", "table_name", "embedding_column")

    def coverage(self) -> list[TargetCoverage]:
        return self._read(TargetCoverage, "embedding_status")

    def progress(self) -> QueueProgress:
        return self._read(QueueProgress, "embedding_progress")[0]

    def estimate(
        self, default_model: str, table: str | None, column: str | None, missing: bool
    ) -> list[Estimate]:
        return self._rows(
            Estimate,
            "estimate_embeddings",
            default_model=default_model,
            only_table=table,
            only_column=column,
            missing=missing,
        )

    def rate(self, model: str) -> float | None:
        rate = self._call("embedding_rate", model=model)
        return float(rate) if rate else None

    def search(
        self,
        target: Target,
        vector: npt.NDArray[np.float32] | None,
        limit: int,
        model: str | None = None,
        *,
        text: str | None = None,
        full_text_weight: float = 1.0,
        rrf_k: int = 50,
        filter: Mapping[str, Any] | None = None,
        exact: bool = False,
        per_document: int = 1,
    ) -> list[Match]:
        return self._rows(
            Match,
            "search_embeddings",
            **target.arguments,
            query=vector,
            matches=limit,
            model=model,
            query_text=text,
            full_text_weight=full_text_weight,
            rrf_k=rrf_k,
            filter=None if filter is None else dict(filter),
            exact=exact,
            per_document=per_document,
        )

    def match_function(self, target: Target) -> MatchFunction | None:
        found = self._rows(
            MatchFunction,
            "embedding_match_function",
            **target.arguments,
        )
        return found[0] if found else None

    def missing(self, target: Target, record_ids: Sequence[str]) -> set[str]:
        rows = self._transport.rows(
            "missing_embeddings",
            {
                **target.arguments,
                "record_ids": list(record_ids),
            },
            {"record_id": str},
        )
        return {row["record_id"] for row in rows}

    def has_vector_index(self, target: Target) -> bool:
        return bool(
            self._call(
                "embedding_has_vector_index",
                **target.arguments,
            )
        )

    def verify(
        self,
        target: Target,
        after: str | None,
        batch: int = ROWS_VERIFIED_IN_ONE_CALL,
        *,
        of_chunks: bool = False,
        width: int | None = None,
        usual_length: float | None = None,
        tolerance: float | None = None,
    ) -> list[VerifiedRows]:
        return self._portion.within_time(
            batch,
            lambda size: self._rows(
                VerifiedRows,
                "verify_embeddings",
                **target.arguments,
                of_chunks=of_chunks,
                after_record=after,
                batch=size,
                width=width,
                usual_length=usual_length,
                tolerance=tolerance,
            ),
        )

    def sample_vectors(
        self, target: Target, sample: int, record_ids: Sequence[str] | None = None
    ) -> list[StoredVector]:
        return self._rows(
            StoredVector,
            "sample_vectors",
            **target.arguments,
            sample=sample,
            record_ids=None if record_ids is None else list(record_ids),
        )

    def diagnose(self, *, samples: bool = True) -> list[Finding]:
        columns = {"check_name": str, **columns_of(Finding)}
        del columns["check"]
        found = [*self._transport.rows("diagnose_embeddings", {}, columns)]
        if samples:
            found += self._transport.rows("sample_embeddings", {}, columns)
        return [Finding(check=row.pop("check_name"), **row) for row in found]
