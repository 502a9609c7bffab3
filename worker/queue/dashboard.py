"""What the dashboard shows: the state of the queue, and its jobs. See docs/sql-api.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from worker.queue.audit import CallSource
from worker.queue.backups import KnownBackup
from worker.queue.calls import Calls
from worker.queue.checks import Check
from worker.queue.jobs import JobId, JobStatus
from worker.queue.reembeddings import Reembedding
from worker.queue.reports import DatabaseLoad, Failure, QueueProgress, RecentWork, TargetStatus
from worker.queue.targets import Target
from worker.queue.transports.decoding import made
from worker.queue.workers import DesiredState, StandingCommand, StoppedProvider, WorkerStatus

JOBS_ON_A_PAGE = 50
PASSAGES_ON_A_PAGE = 50


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue, its columns and its workers, as they were at a time of the database.

    `failures` are the most frequent, at most 50, `workers` those that were seen last, at most 200.
    `backups` has the latest backup of all tables, and the last complete one if that is another;
    `reembeddings` those that have not ended. `recent` is of the last 15 minutes. Today begins at
    midnight in UTC; `cost_today` (US dollars) is None if a price is not known.
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


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job on a page. The fields are those of `ListedJob`."""

    id: JobId
    table_name: str
    embedding_column: str
    record_id: str
    status: JobStatus
    attempts: int
    available_at: datetime
    lease_expires_at: datetime | None
    worker: str | None
    error_class: str | None
    error_message: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class JobsPage:
    """Jobs, at most as many as were asked for. `next_cursor` is None on the last page.

    A page can have fewer jobs, or none, and still a `next_cursor`.
    """

    jobs: list[JobSummary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class JobDetail:
    """All that is known of a job but its text: the columns of embedding_queue, and of its target.

    `model`, `tokens` and `cost` (US dollars) are those of the stored vector. `target_model`,
    `dimensions`, `enabled` and `problem` are those of the target, which has its text `in_chunks` or
    not. `by_hand`: it has a text that was given by hand. `desired_state`: the
    command for its worker, or for all workers; None: there is none.
    """

    id: JobId
    target_id: int
    table_name: str
    embedding_column: str
    record_id: str
    user_id: UUID | None
    status: JobStatus
    attempts: int
    abandoned_claims: int
    unwritten: int
    passed_over: int
    error_message: str | None
    error_class: str | None
    available_at: datetime
    priority: int
    lease_expires_at: datetime | None
    worker: str | None
    model: str | None
    tokens: int | None
    cost: float | None
    truncated_to: int | None
    unenhanced: str | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    target_model: str | None
    dimensions: int | None
    enabled: bool
    problem: str | None
    in_chunks: bool
    by_hand: bool
    desired_state: DesiredState | None


@dataclass(frozen=True, slots=True)
class PassageSummary:
    """A passage of a text in chunks, without its words: see embedding_passages."""

    position: int
    first_char: int
    last_char: int
    page: int | None
    heading_path: str | None
    hash: bytes
    characters: int
    has_vector: bool


class DashboardQueue(Protocol):
    """The calls for the pages of the operator."""

    def overview(self) -> Overview:
        """Return the state of the queue, its columns and its workers, in one short call."""

    def failures(self) -> list[Failure]:
        """Return all failures by column and class, the most frequent first."""

    def page_jobs(
        self,
        *,
        status: JobStatus | None = None,
        table: str | None = None,
        column: str | None = None,
        error_class: str | None = None,
        record: str | None = None,
        cursor: str | None = None,
        limit: int = JOBS_ON_A_PAGE,
    ) -> JobsPage:
        """Return a page of the jobs that match all given arguments, in one short call.

        `cursor` is the `next_cursor` of the page before. Raises SettingsError if it is none.
        """

    def job(self, id: int) -> JobDetail | None:
        """Return all that is known of a job but its text. None: there is no such job."""

    def reveal_text(self, id: int, *, source: CallSource = "api") -> str | None:
        """Return the text of a job, at most 20,000 characters, and record that in the audit.

        None: there is no such job, it has no text, or its text cannot be read.
        """

    def set_goal(
        self, target: Target, percent: float | None, *, source: CallSource = "api"
    ) -> None:
        """Set the coverage that is wanted of a column, in percent; None: no goal.

        Raises SettingsError if it is not above 0 and at most 100.
        """

    def passages(
        self,
        target: Target,
        record_id: str,
        after: int | None = None,
        limit: int = PASSAGES_ON_A_PAGE,
    ) -> list[PassageSummary]:
        """Return the passages of a text in chunks after a position, without their words.

        Raises SettingsError if the column is embedded as a whole.
        """

    def reveal_passage(
        self, target: Target, record_id: str, position: int, *, source: CallSource = "api"
    ) -> str | None:
        """Return the words of a passage, at most 20,000 characters, and record that in the audit.

        None: there is no such passage.
        """


class DashboardCalls(Calls):
    """The DashboardQueue protocol."""

    def overview(self) -> Overview:
        return made(Overview, self._call("embedding_overview"))

    def failures(self) -> list[Failure]:
        found = self._read(
            Failure, "embedding_failures", "table_name", "embedding_column", "error_class"
        )
        return sorted(found, key=lambda failure: -failure.failed)

    def page_jobs(
        self,
        *,
        status: JobStatus | None = None,
        table: str | None = None,
        column: str | None = None,
        error_class: str | None = None,
        record: str | None = None,
        cursor: str | None = None,
        limit: int = JOBS_ON_A_PAGE,
    ) -> JobsPage:
        page = self._call(
            "page_embeddings",
            only_status=status,
            only_table=table,
            only_column=column,
            only_error_class=error_class,
            only_record=record,
            after_cursor=cursor,
            max_rows=limit,
        )
        return made(JobsPage, page)

    def job(self, id: int) -> JobDetail | None:
        found = self._call("embedding_job", id=id)
        return made(JobDetail, found) if found else None

    def reveal_text(self, id: int, *, source: CallSource = "api") -> str | None:
        text: str | None = self._call("reveal_embedding_text", id=id, source=source)
        return text

    def set_goal(
        self, target: Target, percent: float | None, *, source: CallSource = "api"
    ) -> None:
        self._call("set_embedding_goal", **target.arguments, percent=percent, source=source)

    def passages(
        self,
        target: Target,
        record_id: str,
        after: int | None = None,
        limit: int = PASSAGES_ON_A_PAGE,
    ) -> list[PassageSummary]:
        return self._rows(
            PassageSummary,
            "embedding_passages",
            **target.arguments,
            record_id=record_id,
            after_position=after,
            max_rows=limit,
        )

    def reveal_passage(
        self, target: Target, record_id: str, position: int, *, source: CallSource = "api"
    ) -> str | None:
        words: str | None = self._call(
            "reveal_embedding_passage",
            **target.arguments,
            record_id=record_id,
            at_position=position,
            source=source,
        )
        return words
