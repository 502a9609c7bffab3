"""What the engine and the commands ask of a queue, whichever way it is reached."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from worker.queue.cache import Cached
from worker.queue.jobs import (
    Claim,
    Completion,
    Job,
    LeaseKey,
    ListedJob,
    Rechecked,
    Refusal,
    Reprocessed,
    Scope,
)
from worker.queue.reports import (
    DatabaseLoad,
    Estimate,
    Failure,
    Finding,
    QueueProgress,
    Session,
    Stats,
    TargetStatus,
)
from worker.queue.search import Match
from worker.queue.targets import Target
from worker.queue.workers import (
    Command,
    DesiredState,
    Report,
    StandingCommand,
    StoppedProvider,
    WorkerStatus,
)


class Queue(Protocol):
    """What the engine needs of a queue. Every call is a short transaction of its own.

    Raises Unreachable if the database is out of reach. The same call may then be made again, also
    if the first one arrived and only its answer was lost.
    """

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        """Take up at most `batch_size` due jobs, all of one column. False if nothing is due.

        Raises Busy if all that is due lies in locked tables.
        """

    def extend(self, scope: Scope, jobs: Sequence[Job]) -> set[LeaseKey]:
        """Hold on to `jobs` for another lease. Returns those whose lease is lost.

        Whatever else stands under the worker's name goes back to the queue.
        """

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        """Write vectors made by `model` and end their jobs. All that is not refused is done."""

    def fail(
        self, jobs: Sequence[Job], error_class: str, message: str, retry_in: timedelta | None = None
    ) -> int:
        """Record what was wrong with the jobs. Returns how many are failed for good."""

    def release(
        self,
        jobs: Sequence[Job],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        """Give the jobs back untouched, to be due again after about `retry_in`, and say why.

        `embedded`: their vectors were made, and could not be written. That is counted, and the
        pause doubles each time.
        """

    def heartbeat(self, scope: Scope, report: Report) -> None:
        """Say that the worker is there, and how much memory its process takes."""

    def command(self, scope: Scope) -> Command:
        """What the worker was told to do."""

    def load(self) -> DatabaseLoad:
        """How busy the database is."""

    def listen(self) -> bool:
        """Ask to be woken by notifications. False if they cannot come this way."""

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until a notification comes: then True. Needs `listen` before."""

    def deregister(self, scope: Scope) -> None:
        """Say that the worker ends. What still stands under its name goes back."""

    def report_provider(self, provider: str, error: str | None, hint: str | None = None) -> None:
        """Say why a provider cannot be used, or (None) that it can."""

    def announce(self, event: str, subject: str, announcement: UUID) -> bool:
        """Report an event, and what it is about. True if it falls to us to tell people of it.

        `announcement` is a number for this report alone. See announce_embedding_event.
        """

    def cached(self, model: str, dimensions: int, hashes: Sequence[bytes]) -> Cached:
        """The vectors that the cache has for texts of these hashes, and the tokens they took."""

    def cache(self, model: str, completions: Sequence[Completion], cap_mb: int) -> None:
        """Put vectors made by `model` into the cache; the oldest above `cap_mb` MiB go.

        Those of a part of a text are left out: they are not what another column may want.
        """


class AdminQueue(Queue, Protocol):
    """What the commands ask of a queue, beside what the engine needs of it.

    Raises SettingsError, with the database's own sentence, if what it was asked makes no sense.
    """

    def targets(self, table: str | None = None, column: str | None = None) -> list[Target]:
        """The watched columns, of a table as somebody typed it and of a name (None: of any).

        Raises SettingsError if a table or a column is given and none is watched by it.
        """

    def target(self, table: str, column: str) -> Target:
        """The one watched column. Raises SettingsError if it is not watched."""

    def backfill(self, target: Target, batch: int) -> int:
        """Enqueue the next rows that lack a vector. 0: there are no more."""

    def requeue(
        self,
        *,
        status: str | None,
        table: str | None = None,
        column: str | None = None,
        record: str | None = None,
        error_class: str | None = None,
    ) -> int:
        """Make jobs pending again, narrowed down by what is given. Returns how many."""

    def list_jobs(
        self, statuses: Sequence[str], table: str | None, column: str | None, limit: int
    ) -> list[ListedJob]:
        """The first jobs in these states, state by state, with the beginnings of their texts."""

    def reprocess(
        self, pattern: str, table: str | None, column: str | None, after: int, *, dry_run: bool
    ) -> Reprocessed:
        """Make jobs pending whose text or id matches, in the next stretch of the queue.

        It begins behind the job `after`. Raises StatementTimeout if it takes longer than a minute.
        """

    def recheck(
        self, table: str | None, column: str | None, after: int, batch: int, *, dry_run: bool
    ) -> Rechecked:
        """Compare texts with what was embedded, and make the jobs of those that differ pending.

        Looks at the next `batch` jobs behind the job `after`. Raises Busy if a table is locked as a
        whole.
        """

    def stats(self, since: timedelta) -> Stats:
        """What was done in the time until now."""

    def control(self, desired_state: DesiredState, worker: str | None = None) -> int:
        """Tell all workers, or one, what to do. Returns how many are there to hear it.

        Raises SettingsError if there is no such worker.
        """

    def commands(self) -> list[StandingCommand]:
        """The commands that `control` has sent and that are still in force, by worker."""

    def count_due(self, scope: Scope) -> int:
        """How many jobs of the scope are due now."""

    def status(self) -> list[TargetStatus]:
        """How far every watched column is."""

    def progress(self) -> QueueProgress:
        """How far all columns are together, and how fast."""

    def workers(self) -> list[WorkerStatus]:
        """Who is at work, or was and fell silent within a day, by name."""

    def failures(self) -> list[Failure]:
        """What failed, by column and class, the most frequent first."""

    def providers(self) -> list[StoppedProvider]:
        """The providers that cannot be used now."""

    def estimate(
        self, default_model: str, table: str | None, column: str | None, missing: bool
    ) -> list[Estimate]:
        """What is due, or (`missing`) what a backfill would enqueue, by column, with a sample."""

    def rate(self, model: str) -> float | None:
        """The rows a second that a worker has completed with a model in the last week, if any."""

    def search(
        self,
        target: Target,
        vector: npt.NDArray[np.float32],
        limit: int,
        model: str | None = None,
    ) -> list[Match]:
        """The rows nearest to `vector`, nearest first.

        Raises SettingsError if `model`, which made `vector`, is not that of the column.
        """

    def check_schema(self) -> None:
        """Raise SchemaError unless the SQL API is there and of this worker's version."""

    def diagnose(self) -> list[Finding]:
        """What the database finds wrong with itself and its columns."""

    def session(self) -> Session | None:
        """Who we are to the database. None: there is no connection to it."""

    def clock(self) -> datetime:
        """The time of the database, or of what answers for it."""
