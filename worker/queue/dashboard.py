"""What the dashboard shows: the state of the queue in one call. See docs/sql-api.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from worker.queue.backups import KnownBackup
from worker.queue.calls import Calls
from worker.queue.checks import Check
from worker.queue.reembeddings import Reembedding
from worker.queue.reports import DatabaseLoad, Failure, QueueProgress, TargetStatus
from worker.queue.transports.decoding import made
from worker.queue.workers import StandingCommand, StoppedProvider, WorkerStatus


@dataclass(frozen=True, slots=True)
class RecentWork:
    """What was done in the last 15 minutes. The fields are those of `Stats`."""

    completed: int
    failed: int
    requests: int
    tokens: int
    cost: float | None
    request_p50_ms: float | None
    request_p95_ms: float | None
    lag_p50_ms: float | None
    lag_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue, its columns and its workers, as they were at a time of the database.

    `failures` are the most frequent, at most 50, `workers` those that were seen last, at most 200.
    `backups` has the latest backup of all tables, and the last complete one if that is another;
    `reembeddings` those that have not ended. Today begins at midnight in UTC; `cost_today` (US
    dollars) is None if a price is not known.
    """

    at: datetime
    columns: list[TargetStatus]
    progress: QueueProgress
    workers: list[WorkerStatus]
    failures: list[Failure]
    providers: list[StoppedProvider]
    commands: list[StandingCommand]
    backups: list[KnownBackup]
    checks: list[Check]
    reembeddings: list[Reembedding]
    database: DatabaseLoad
    recent: RecentWork
    completed_today: int
    cost_today: float | None


class DashboardQueue(Protocol):
    """The calls for the pages of the operator."""

    def overview(self) -> Overview:
        """Return the state of the queue, its columns and its workers, in one short call."""

    def failures(self) -> list[Failure]:
        """Return all failures by column and class, the most frequent first."""


class DashboardCalls(Calls):
    """The DashboardQueue protocol."""

    def overview(self) -> Overview:
        return made(Overview, self._call("embedding_overview"))

    def failures(self) -> list[Failure]:
        found = self._read(
            Failure, "embedding_failures", "table_name", "embedding_column", "error_class"
        )
        return sorted(found, key=lambda failure: -failure.failed)
