"""The queue, its columns and its workers, as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta

from worker.queue import (
    AdminQueue,
    Batch,
    BatchBackfill,
    Check,
    KnownBackup,
    Overview,
    StandingCommand,
    TargetStatus,
    WorkerStatus,
)

SILENT_AFTER = timedelta(minutes=2)
ESTIMATES_ARE_OFF_BY = 0.1

CHECKED = ("table_name", "embedding_column", "checked_at", "vectors", "lost", "overwritten")

UNDER_WAY = (
    *("id", "table_name", "embedding_column", "state", "provider_state", "texts", "tokens", "cost"),
    *("created_at", "expires_at"),
)
WAITING = (
    *("table_name", "embedding_column", "waiting", "committed", "max_cost"),
    *("error_class", "error_message", "retry_at"),
)

Figures = Mapping[str, float | None]
"""Numbers on the whole queue, by name; None where one is not known."""


@dataclass(frozen=True, slots=True)
class StatusSnapshot(Overview):
    """The state of the queue, with the figures that follow from it.

    `batches` are those under way, `batch_backfills` those with jobs that wait for one.
    """

    batches: list[Batch] = field(default_factory=list)
    batch_backfills: list[BatchBackfill] = field(default_factory=list)

    @property
    def damaged(self) -> list[Check]:
        """The checks that found damaged vectors which are left: a person has to repair them."""
        return [check for check in self.checks if check.left]

    @property
    def latest_backup(self) -> KnownBackup | None:
        """The latest backup of all tables."""
        return next((each for each in reversed(self.backups) if not each.only_table), None)

    @property
    def last_complete_backup(self) -> KnownBackup | None:
        """The last complete backup of all tables."""
        complete = [
            backup
            for backup in self.backups
            if backup.state == "complete" and not backup.only_table
        ]
        return complete[-1] if complete else None

    @property
    def pauses(self) -> list[StandingCommand]:
        """The commands that keep workers from claiming."""
        return [command for command in self.commands if command.desired_state != "work"]

    @property
    def due(self) -> int:
        """How many jobs are due; a lower bound, unless it is exact for each column."""
        return sum(column.due for column in self.columns)

    @property
    def oldest_due(self) -> datetime | None:
        """Since when the oldest due job has been due."""
        return min(
            (column.oldest_due for column in self.columns if column.oldest_due), default=None
        )

    @property
    def waiting_for(self) -> float:
        """For how many seconds the oldest due job has been due; 0 if none is due."""
        since = self.oldest_due
        return max((self.at - since).total_seconds(), 0) if since else 0

    @property
    def backup_age(self) -> float | None:
        """How many seconds ago the last complete backup was made; None: there is none."""
        last = self.last_complete_backup
        return (self.at - last.finished_at).total_seconds() if last and last.finished_at else None

    def is_silent(self, worker: WorkerStatus) -> bool:
        """Whether a worker sent no heartbeat for two minutes."""
        return self.at - worker.seen_at > SILENT_AFTER

    def figures(self) -> Figures:
        """Return the figures that conditions compare; None if one is not known."""
        silent = sum(map(self.is_silent, self.workers))
        covered = [column.coverage for column in self.columns if column.coverage is not None]
        return {
            "oldest_due": self.waiting_for,
            "due": self.due,
            "pending": self.progress.pending,
            "failed": sum(column.failed for column in self.columns),
            "coverage": min(covered, default=None),
            "workers": len(self.workers) - silent,
            "silent_workers": silent,
            "rows_per_second": self.progress.rows_per_second,
            "stopped_providers": len(self.providers),
            "backup_age": self.backup_age,
            "failed_backups": self.latest_backup.failures if self.latest_backup else 0,
            "damaged_vectors": sum(check.left for check in self.checks),
        }

    def document(self) -> dict[str, object]:
        """Return all of it as JSON; docs/cli.md is the contract."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "failures": [asdict(failure) for failure in self.failures],
            "providers": [asdict(provider) for provider in self.providers],
            "commands": [asdict(command) for command in self.commands],
            "progress": {
                "pending": self.progress.pending,
                "due": self.due,
                "oldest_due": self.oldest_due,
                **asdict(self.progress),
            },
            "workers": [
                asdict(worker) | {"silent": self.is_silent(worker)} for worker in self.workers
            ],
            "backups": [
                asdict(backup)
                for backup in self.backups
                if backup in (self.latest_backup, self.last_complete_backup)
            ],
            "checks": [
                {name: getattr(check, name) for name in CHECKED} | {"left": check.left}
                for check in self.checks
            ],
            "batches": [
                {name: getattr(batch, name) for name in UNDER_WAY} for batch in self.batches
            ],
            "batch_backfills": [
                {name: getattr(backfill, name) for name in WAITING}
                for backfill in self.batch_backfills
            ],
        }


def status(queue: AdminQueue) -> StatusSnapshot:
    """Return a snapshot of the queue. Raises Unreachable if the database is out of reach."""
    overview = queue.overview()
    has_batches = queue.has_batches()
    batches = queue.batches() if has_batches else []
    backfills = queue.batch_backfills() if has_batches else []
    return StatusSnapshot(
        **{each.name: getattr(overview, each.name) for each in fields(overview)},
        batches=[batch for batch in batches if batch.is_under_way],
        batch_backfills=[backfill for backfill in backfills if backfill.waiting],
    )


def count_missing(column: TargetStatus) -> int:
    """Count the rows of a column that are not in the queue; 0 if the estimate is too rough."""
    if column.rows is None or column.problem:
        return 0
    jobs = column.pending + column.processing + column.completed + column.failed + column.skipped
    missing = column.rows - jobs
    tolerated = 0 if column.rows_exact else ESTIMATES_ARE_OFF_BY * column.rows
    return missing if missing > tolerated else 0
