"""What `worker status` and `worker monitor` look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from worker.cli.conditions import Figures
from worker.queue import (
    AdminQueue,
    Failure,
    QueueProgress,
    StandingCommand,
    StoppedProvider,
    TargetStatus,
    WorkerStatus,
)

SILENT_AFTER = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """The queue, its columns and its workers, as they were at a time of the database."""

    at: datetime
    columns: list[TargetStatus]
    progress: QueueProgress
    workers: list[WorkerStatus]
    failures: list[Failure]
    providers: list[StoppedProvider]
    commands: list[StandingCommand]

    @property
    def pauses(self) -> list[StandingCommand]:
        """The commands that keep workers from claiming."""
        return [command for command in self.commands if command.desired_state != "work"]

    @property
    def waiting_for(self) -> float:
        """For how many seconds the oldest due job has been due; 0 where none is."""
        since = self.progress.oldest_due
        return max((self.at - since).total_seconds(), 0) if since else 0

    def is_silent(self, worker: WorkerStatus) -> bool:
        """Whether nothing was heard of it for two minutes."""
        return self.at - worker.seen_at > SILENT_AFTER

    def figures(self) -> Figures:
        """What conditions are about; None where it is not known."""
        silent = sum(map(self.is_silent, self.workers))
        covered = [column.coverage for column in self.columns if column.coverage is not None]
        return {
            "oldest_due": self.waiting_for,
            "due": self.progress.due,
            "pending": self.progress.pending,
            "failed": sum(column.failed for column in self.columns),
            "coverage": min(covered, default=None),
            "workers": len(self.workers) - silent,
            "silent_workers": silent,
            "rows_per_second": self.progress.rows_per_second,
            "stopped_providers": len(self.providers),
        }

    def document(self) -> dict[str, object]:
        """All of it for a machine; docs/cli.md is the contract."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "failures": [asdict(failure) for failure in self.failures],
            "providers": [asdict(provider) for provider in self.providers],
            "commands": [asdict(command) for command in self.commands],
            "progress": asdict(self.progress),
            "workers": [
                asdict(worker) | {"silent": self.is_silent(worker)} for worker in self.workers
            ],
        }


def take_snapshot(queue: AdminQueue) -> StatusSnapshot:
    """How it is now. Raises Unreachable if the database is out of reach."""
    return StatusSnapshot(
        columns=queue.status(),
        progress=queue.progress(),
        workers=queue.workers(),
        failures=queue.failures(),
        providers=queue.providers(),
        commands=queue.commands(),
        at=queue.clock(),
    )
