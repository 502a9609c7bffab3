"""The SQL API of `supabase/migrations`, seen from Python."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NewType, Protocol, TypedDict
from uuid import UUID

import numpy as np
import numpy.typing as npt

from worker.errors import SettingsError, Unreachable

JobId = NewType("JobId", int)
LeaseKey = tuple[JobId, UUID]
A_DAY = timedelta(days=1)
SettledStatus = Literal["completed", "skipped", "dropped", "failed", "pending"]
RefusalReason = Literal["lost", "changed", "other_model", "locked", "suspended", "unwritable"]
OnTooLong = Literal["fail", "truncate"]
WorkerState = Literal["working", "waiting", "paused", "asleep", "stopping"]
DesiredState = Literal["work", "pause", "sleep"]
Level = Literal["ok", "note", "warning", "problem"]
Cached = dict[bytes, tuple[npt.NDArray[np.float32], int | None]]
"""By the hash of a text: its vector, and the number of tokens that took if it is known."""


@dataclass(frozen=True, slots=True)
class Job:
    """A text to embed, and the lease and hash with which its vector must be handed in.

    `attempts` counts its failures so far. `alone`: its last workers died over it or beside it, so
    nothing else is to be under way in this process. `truncate`: if the text is too long for the
    model, as much of its beginning as fits is embedded. `waited`: for how many seconds it had been
    due when it was claimed; None for what comes after all the others, as from a backfill.
    """

    id: JobId
    target_id: int
    table_name: str
    record_id: str
    embedding_column: str
    content: str
    content_hash: bytes
    lease: UUID
    model: str
    dimensions: int | None
    attempts: int = 0
    isolated: bool = False
    truncate: bool = False
    waited: float | None = field(default=None, compare=False)
    claimed_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def lag(self) -> float | None:
        """For how many seconds it has been due by now, where that was told."""
        return None if self.waited is None else self.waited + time.monotonic() - self.claimed_at

    @property
    def lease_key(self) -> LeaseKey:
        """What tells this handing-out from another of the same job."""
        return self.id, self.lease


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim took up: the jobs of one column to embed, and what it settled by itself.

    `settled` counts jobs that ended without a model: completed (text and model unchanged), skipped
    (nothing to embed), dropped (record gone), failed, or pending (row being written, comes back).
    """

    jobs: list[Job]
    settled: Counter[SettledStatus]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Claim:
        """Of the rows of claim_embeddings, with values as Job has them. Takes their status off."""
        statuses = [row.pop("status") for row in rows]
        return cls(
            jobs=[
                Job(**row)
                for row, status in zip(rows, statuses, strict=True)
                if status == "processing"
            ],
            settled=Counter(status for status in statuses if status != "processing"),
        )

    def __bool__(self) -> bool:
        """False if nothing at all was due."""
        return bool(self.jobs or self.settled)


@dataclass(frozen=True, slots=True)
class Completion:
    """A vector for a job, the number of tokens it took if that is known, and what it cost.

    `cost` in US dollars; None: the price is not known. `truncated_to`: how many characters of the
    text were embedded, if not all of them.
    """

    job: Job
    vector: npt.NDArray[np.float32]
    tokens: int | None
    truncated_to: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A completion that the database did not take, and why.

    lost: the lease is not ours any more, the vector is stale. changed: the row reads differently
    though nobody told the queue. other_model: the column holds vectors of another model by now; the
    job goes back. locked: somebody is writing it; the same may work in a moment.
    suspended: the table is not what it was, and the target waits until somebody fixes it.
    unwritable: the table does not let this row be written; the job is failed.
    """

    job_id: JobId
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class Target:
    """A watched column.

    `model` made all of its vectors; None: it has none yet, and gets those of the worker's default.
    `model_is_default`: nobody named that model, it was the default of the first worker.
    """

    table_name: str
    embedding_column: str
    source: str
    filter: str | None
    model: str | None
    model_is_default: bool
    dimensions: int | None
    enabled: bool
    problem: str | None

    def accepts(self, default_model: str) -> bool:
        """Whether a worker with this default model works on the column."""
        return not self.model_is_default or self.model in (None, default_model)


class WatchOptions(TypedDict, total=False):
    """The options of watch_embeddings. None keeps what the target has; "" takes it away."""

    model: str | None
    filter: str | None
    dimensions: int | None
    on_too_long: OnTooLong | None
    match_function: bool | None


@dataclass(frozen=True, slots=True)
class WatchPreview:
    """What watching a column would do. `width`: of the column; None: it has none.

    `changes`: one line for each setting that changes. `to_embed`: how many records would be
    embedded again.
    """

    is_watched: bool
    width: int | None
    changes: list[str]
    to_embed: int


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """How far a watched column is. `rows` and `coverage` are None where they cannot be told.

    Unless `rows_exact`, `rows` is an estimate of the planner; unless `due_exact`, at least so many
    are due, and the oldest may be older.
    """

    table_name: str
    embedding_column: str
    model: str | None
    enabled: bool
    problem: str | None
    rows: int | None
    rows_exact: bool
    pending: int
    processing: int
    completed: int
    failed: int
    skipped: int
    coverage: float | None
    due: int
    oldest_due: datetime | None
    due_exact: bool


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """How far all columns are together, and how fast all workers are: see embedding_progress.

    `pending` with those in processing. Rate, elapsed and remaining seconds are None where nothing
    is known of them.
    """

    pending: int
    due: int
    oldest_due: datetime | None
    rows_per_second: float | None
    elapsed_seconds: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, as it spoke of itself last. `rss_mb`: its memory, in MB of 2**20 bytes."""

    worker: str
    host: str
    pid: int
    state: WorkerState
    throttle_level: str
    cause: str | None
    rss_mb: float | None
    completed: int
    failed: int
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed in a watched column, by class."""

    table_name: str
    embedding_column: str
    error_class: str | None
    failed: int
    latest_message: str
    latest_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker has done with a model since it started, and for how many seconds it was at it.

    `cost` in US dollars; None: the price of the model is not known. `request_ms` counts how long
    requests took that were answered, `lag_ms` how long jobs had been due when they had their
    vector: both are counts of a histogram, see `worker.engine.histogram`.
    """

    model: str
    completed: int
    failed: int
    requests: int
    tokens: int
    cost: float | None
    seconds: float = 0.0
    request_ms: Sequence[int] = ()
    lag_ms: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself: its state, and what it has done since it started.

    `usage` has each model once; of one that is left out nothing new is known. `cause` of its state
    or throttle level, where there is one. `listens`: a notification would reach it.
    """

    state: WorkerState
    completed: int = 0
    failed: int = 0
    usage: Sequence[Usage] = ()
    throttle_level: str = "full"
    cause: str | None = None
    listens: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What a worker was told to do, and when; None: never anything."""

    desired_state: DesiredState = "work"
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StandingCommand:
    """What is wished of a worker, or of every one (`*`), also of those that start later."""

    worker: str
    desired_state: DesiredState
    since: datetime

    @property
    def is_for_all(self) -> bool:
        return self.worker == "*"


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job as a person sees it. `preview`: how its text begins, None if it cannot be read.

    `worker` and the end of its lease where it is processing. `error_class` and `error_message` also
    where it is pending again after a failure.
    """

    table_name: str
    embedding_column: str
    record_id: str
    status: str
    attempts: int
    available_at: datetime
    lease_expires_at: datetime | None
    worker: str | None
    error_class: str | None
    error_message: str | None
    updated_at: datetime
    preview: str | None


@dataclass(frozen=True, slots=True)
class Reprocessed:
    """What matched a pattern in a stretch of the queue, up to the job `looked_to` (None: its end).

    `examples` has up to three of them: their `table_name`, `embedding_column`, `record_id`,
    `status` and `preview`.
    """

    matched: int
    looked_to: int | None
    examples: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rechecked:
    """How many jobs of a stretch were compared with their rows, and how many of them differ.

    The stretch ends at the job `looked_to` (None: there are no more).
    """

    checked: int
    changed: int
    looked_to: int | None


@dataclass(frozen=True, slots=True)
class Stats:
    """What was done in a span of time: see embedding_stats in the SQL API.

    Milliseconds are None where nothing was measured, `cost` (US dollars) where a price is unknown.
    `hours` has the `hour`, jobs `completed` and `failed`, and the `seconds` of it that are meant;
    `failures` the `error_class`, how many `failed`, `latest_message` and `latest_at`.
    """

    completed: int
    failed: int
    requests: int
    tokens: int
    cost: float | None
    request_p50_ms: float | None
    request_p95_ms: float | None
    lag_p50_ms: float | None
    lag_p95_ms: float | None
    hours: list[dict[str, Any]]
    failures: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DatabaseLoad:
    """How busy the database is. None: that cannot be seen, or there is no such thing.

    `active_sessions`: of the whole server, that are in a transaction, without ours.
    `lock_wait_seconds`: the longest that a session has waited for a lock by now.
    `vacuumed_table`: one that is watched, or of the queue, on which a vacuum is at work.
    """

    active_sessions: int | None = None
    max_connections: int | None = None
    lock_wait_seconds: float | None = None
    vacuumed_table: str | None = None
    replica_lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StoppedProvider:
    """Why a provider cannot be used now, since when, and when that was last found."""

    provider: str
    error: str
    hint: str | None
    since: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much there is to embed in a watched column, and a sample of it.

    `row_count` is None where it cannot be told. `bytes` is the length of each text of the sample,
    `texts` are their beginnings. What needs no call to the model is counted and has no text.
    """

    table_name: str
    embedding_column: str
    model: str
    dimensions: int | None
    row_count: int | None
    bytes: list[int]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `hint` is None where there is nothing to do."""

    level: Level
    check: str
    subject: str
    cause: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """Who a connection is to the database.

    `may_work`: whether it may claim jobs; None where nobody can. `finds_vector`: whether the type
    is found without its schema; None where there is no such type.
    """

    role: str
    server_version: str
    may_work: bool | None
    finds_vector: bool | None


@dataclass(frozen=True, slots=True)
class Match:
    """A row found by a search. Distance by cosine: 0 the same direction, 2 the opposite.

    `content` is None if the text cannot be read any more.
    """

    record_id: str
    content: str | None
    distance: float


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose jobs a worker claims (of any table and column, or of one), for how long, as whom."""

    worker: str
    lease: timedelta
    default_model: str
    table: str | None = None
    column: str | None = None


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


def other_model(target: Target, default_model: str) -> SettingsError | None:
    """Why a worker with this default model does not work on a column; None: it does."""
    if target.accepts(default_model):
        return None
    return SettingsError(
        f"column {target.embedding_column} of table {target.table_name} holds vectors of"
        f" {target.model}, and EMBEDDING_MODEL is {default_model}: it is left as it is",
        f"Set EMBEDDING_MODEL={target.model}, or name the model of this column: `worker watch …"
        f" --model {target.model}` keeps its vectors, `worker watch … --model {default_model}`"
        " embeds every row again.",
    )


NAMELESS = "''"
"""How a name is told that is empty: a variable of a script that is not set, most likely."""


def watched_by(targets: Sequence[Target], table: str | None, column: str | None) -> list[Target]:
    """Those of a table, by the name it is watched under, and of a column (None: of any).

    Raises SettingsError if one is given and none is watched by it.
    """
    found = [
        target
        for target in targets
        if table in (None, target.table_name) and column in (None, target.embedding_column)
    ]
    asked = {"column": column, "table": table}
    given = [f"{kind} {name or NAMELESS}" for kind, name in asked.items() if name is not None]
    if given and not found:
        raise SettingsError(
            f"{' of '.join(given)} is not watched",
            "`worker targets` lists what is; `worker watch` adds to it.",
        )
    return found


def whole(completions: Sequence[Completion]) -> list[Completion]:
    """Those of a whole text: the vector of a part of one is not what another column may want."""
    return [completion for completion in completions if completion.truncated_to is None]


def one_line(message: str) -> str:
    """What a server said, without its line breaks."""
    return " ".join(message.split())


def takes_no_writes(message: str) -> Unreachable:
    """The error for a database that is read-only just now."""
    return Unreachable(
        f"the database takes no writes: {message}",
        "It is a standby, or its host made it read-only, as Supabase does when the disk is full."
        " `worker doctor` says what to run.",
    )


def nearest_time(value: str) -> datetime:
    """The nearest that Python has to a time of Postgres that it has no date for: a day off an end.

    So the time can still be shown in any time zone.
    """
    is_past = value.startswith("-") or value.endswith("BC")
    nearest = datetime.min + A_DAY if is_past else datetime.max - A_DAY
    return nearest.replace(tzinfo=UTC)


def no_such_table(given: str) -> SettingsError:
    """What to tell somebody who typed the name of a table that is not there."""
    return SettingsError(
        f"there is no table {given or NAMELESS}",
        "Write it as in SQL, with its schema and its quotes where it needs them: "
        'app.docs, or \'"My-Schema"."Weird Table"\'.',
    )
