"""The interface of a queue for the engine and the commands, over every transport."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from worker.queue.api_keys import ApiKey, KeyScope, ValidKey
from worker.queue.audit import AuditEntry, CallSource, RecordedEvent
from worker.queue.backups import KnownBackup
from worker.queue.batches import BatchQueue
from worker.queue.cache import Cached
from worker.queue.checks import Check, Checked, CheckState
from worker.queue.chunks import DocumentCompletion
from worker.queue.damage import ROWS_CHECKED_IN_ONE_CALL, DamagedRange
from worker.queue.dashboard import DashboardQueue
from worker.queue.described import StoredKind
from worker.queue.files import (
    FILES_IN_ONE_CALL,
    FileClaim,
    FileFacts,
    FileJob,
    FilesPage,
    FileState,
    FileStatus,
    Folder,
    FoundFile,
    KnownFile,
)
from worker.queue.jobs import (
    Claim,
    Completion,
    Leased,
    LeaseKey,
    ListedJob,
    Rechecked,
    Refusal,
    RefusalReason,
    Reprocessed,
    Requeued,
    Scope,
)
from worker.queue.portion import JOBS_IN_ONE_CALL, ROWS_VERIFIED_IN_ONE_CALL
from worker.queue.reembeddings import (
    Reembedding,
    ReembeddingEvent,
    ReembeddingProgress,
    ReembeddingUsage,
)
from worker.queue.reports import (
    DatabaseLoad,
    Estimate,
    Finding,
    QueueProgress,
    Session,
    Stats,
    StoredVector,
    TargetCoverage,
    TargetStatus,
    VerifiedRows,
)
from worker.queue.safekeeping import (
    ROWS_EXPORTED_IN_ONE_CALL,
    Exported,
    RestoreOutcome,
    StoredRow,
)
from worker.queue.search import Match, MatchFunction
from worker.queue.targets import Target
from worker.queue.workers import (
    Command,
    DesiredState,
    Report,
    StandingCommand,
)


class Queue(Protocol):
    """The interface of a queue for the engine. Every call is a short transaction of its own.

    Raises Unreachable if the database is out of reach. The same call may then be made again, also
    if the first one arrived and only its answer was lost.
    """

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        """Claim at most `batch_size` due jobs, all of one column. False if nothing is due.

        Raises Busy if all due jobs are in locked tables.
        """

    def extend(self, scope: Scope, jobs: Sequence[Leased]) -> set[LeaseKey]:
        """Extend the leases of `jobs`. Returns those that are lost.

        All other jobs under the worker's name are released.
        """

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        """Write vectors made by `model` and complete their jobs. Returns those that are refused.

        A job that is `unenhanced` is marked, and pending again if it has a time in `again_in`.
        """

    def stage(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        """Store vectors of chunks, made by `model`, until their documents are completed.

        Returns the refused documents, each once. Chunks that are stored already are left alone.
        """

    def complete_documents(
        self, model: str, completions: Sequence[DocumentCompletion]
    ) -> list[Refusal]:
        """Complete documents whose chunks are stored: from now on searches find these chunks, and
        no others. Returns the documents that are refused."""

    def fail(
        self,
        jobs: Sequence[Leased],
        error_class: str,
        message: str,
        retry_in: timedelta | None = None,
    ) -> int:
        """Record what was wrong with the jobs. Returns how many are failed for good."""

    def release(
        self,
        jobs: Sequence[Leased],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        """Release the jobs, to be due again after about `retry_in`, with a reason.

        `embedded`: their vectors were made, but could not be written. This is counted, and the
        pause doubles each time.
        """

    def heartbeat(self, scope: Scope, report: Report) -> None:
        """Report that the worker is running, and how much memory its process takes."""

    def command(self, scope: Scope) -> Command:
        """Return the command for the worker."""

    def poll(self, scope: Scope, except_targets: Collection[int] = ()) -> tuple[Command, bool]:
        """Return the command for the worker, and whether a claim would find a job.

        For a worker that waits: one short call that writes nothing.
        """

    def load(self) -> DatabaseLoad:
        """Return how busy the database is."""

    def listen(self) -> bool:
        """Ask to be woken by notifications. False if they cannot come this way."""

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until a notification comes: then True. Needs `listen` before."""

    def deregister(self, scope: Scope) -> None:
        """Take the worker off the list. Jobs that are still under its name are released."""

    def report_provider(self, provider: str, error: str | None, hint: str | None = None) -> None:
        """Report why a provider cannot be used, or (None) that it can."""

    def announce(self, event: str, subject: str, announcement: UUID) -> bool:
        """Report an event and its subject. True if this worker is to notify people of it.

        `announcement` is a number for this report only. See announce_embedding_event.
        """

    def cached(self, model: str, dimensions: int, hashes: Sequence[bytes]) -> Cached:
        """Return the cached vectors for texts with these hashes, and their tokens."""

    def cache(self, model: str, completions: Sequence[Completion], cap_mb: int) -> None:
        """Put vectors made by `model` into the cache, and remove the oldest above `cap_mb` MiB.

        Vectors of truncated texts are left out: another column may need the whole text.
        """

    def cached_enhancements(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return what chat models wrote earlier, as far as it is cached under these keys."""

    def cache_enhancements(self, contents: Mapping[bytes, str], cap_mb: int) -> None:
        """Put what chat models wrote into the cache, and remove the oldest above `cap_mb` MiB."""


class FolderQueue(Protocol):
    """The calls about folders of files and their scans."""

    def folders(self) -> list[Folder]:
        """Return all folders, by name."""

    def files(
        self,
        words: str | None = None,
        path_regex: str | None = None,
        folder: str | None = None,
        states: Sequence[FileState] | None = None,
        ids: Sequence[int] | None = None,
        limit: int = FILES_IN_ONE_CALL,
    ) -> list[FileStatus]:
        """Return the files that fit, the best first by their words, then by path.

        Over the Data API, at most FILES_IN_ONE_CALL. Raises SettingsError if `path_regex` is not a
        regular expression of Postgres.
        """

    def page_files(
        self, folder: str | None, state: FileState | None, before: int | None, limit: int
    ) -> FilesPage:
        """Return the next files of a folder and a state (None: any), the latest first.

        `before`: those before the file with this id. A page can have fewer files than `limit`, or
        none, and others after it: it takes a few milliseconds however many files there are.
        """

    def file_ids(self, path_regex: str, limit: int) -> list[int]:
        """Return the ids of files with such paths. Raises SettingsError if `path_regex` is not a
        regular expression of Postgres."""

    def start_scan(self, folder: Folder, lease_for: timedelta) -> UUID | None:
        """Begin a scan, and return its lease; None: another host scans the folder now."""

    def known_files(self, folder: Folder) -> Iterator[KnownFile]:
        """Return all known files of a folder, in the order of their ids."""

    def record_files(
        self, folder: Folder, lease: UUID, lease_for: timedelta, found: Sequence[FoundFile]
    ) -> None:
        """Record files, and extend the lease of the scan. Raises SettingsError if it is lost."""

    def finish_scan(
        self,
        folder: Folder,
        lease: UUID,
        *,
        files: int,
        missing: Sequence[int],
        grace: timedelta,
        skipped: Mapping[str, int],
        seconds: float,
        problem: str | None,
    ) -> int:
        """End a scan. Returns how many files were deleted: those that are missing since `grace`.

        With a `problem` nothing is deleted. Raises SettingsError if the lease is lost.
        """

    def count_files_to_read(self) -> int:
        """Return how many files are not read yet, or again, in all folders."""

    def claim_files(
        self, worker: str, folders: Sequence[Folder], batch: int, lease_for: timedelta
    ) -> FileClaim:
        """Claim at most `batch` files of these folders, to be completed, failed or released.

        Raises Busy if their table is locked as a whole.
        """

    def complete_file(
        self, job: FileJob, content: str, sha256: bytes, facts: FileFacts
    ) -> RefusalReason | None:
        """Write the text of a file and complete its job. Returns why not, if it was refused."""


class SafekeepingQueue(Protocol):
    """The calls about backups, checks, the audit, and vectors that come back."""

    def describe(self, target: Target) -> StoredKind:
        """Return the key of a table and the type of its vectors. Raises Busy if it is locked."""

    def export(
        self,
        target: Target,
        after: str | None,
        *,
        of_chunks: bool = False,
        batch: int = ROWS_EXPORTED_IN_ONE_CALL,
    ) -> Exported:
        """Return the sound vectors of completed jobs, of the next rows after the record `after`.

        In the order of the key, of at most `batch` rows; with `of_chunks`, those of the chunks of
        the next texts, of which none is cut. Raises Busy if the table is locked as a whole.
        """

    def restore(
        self,
        target: Target,
        rows: Sequence[StoredRow],
        *,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> list[RestoreOutcome]:
        """Write vectors to the rows whose text is still the one they were made from, and complete
        their jobs. Returns what became of each, or with `dry_run` would.

        `overwrite`: also where there is another vector of this text and model. Raises SettingsError
        if the column has another model or width, and Busy if the table is locked as a whole.
        """

    def claim_records(
        self, target: Target, record_ids: Sequence[str], scope: Scope, *, dry_run: bool = False
    ) -> Claim:
        """Claim the first of these records, whatever the status of their jobs.

        It has a job, or a settled one, for each of them up to the last. `pending`: another session
        holds it; `dropped`: it does not exist. With `dry_run`, nothing is changed.
        """

    def placed_chunks(self, target: Target, record_ids: Sequence[str]) -> dict[str, set[bytes]]:
        """Return the hashes of the chunks of each text that a search finds, and whose vectors are
        the ones that were written."""

    def audit(
        self, table: str | None = None, limit: int = 20, before: int | None = None
    ) -> list[AuditEntry]:
        """Return the latest entries, the newest first; of a table, by the name in its entries.

        At most 1000; with `before`, those before the entry with this id.
        """

    def record_audit(
        self,
        event: RecordedEvent,
        table: str | None = None,
        column: str | None = None,
        *,
        source: CallSource = "api",
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an entry for what this program has done, with at most 2000 characters of figures."""

    def backups(self) -> list[KnownBackup]:
        """Return the backups that the database knows, the earliest first."""

    def begin_backup(
        self,
        destination: str,
        worker: str,
        lease_for: timedelta,
        every: timedelta | None = None,
        table: str | None = None,
    ) -> KnownBackup | None:
        """Begin a backup, or continue the one that failed or whose worker died.

        None: it is not due, or another worker makes it. `every`: only if that time has passed since
        the last one was complete. `destination` must not contain a key or a password.
        """

    def extend_backup(
        self,
        backup: KnownBackup,
        lease_for: timedelta,
        rows: int | None = None,
        bytes: int | None = None,
    ) -> bool:
        """Report how far a backup is, and extend its lease. False: another worker has it by now.

        With a lease of 0, another worker can continue it at once.
        """

    def end_backup(
        self,
        backup: KnownBackup,
        rows: int,
        bytes: int,
        error: str | None = None,
        *,
        source: CallSource = "api",
    ) -> bool:
        """End a backup: it is complete, or, with an error, failed.

        False: another worker has it by now.
        """

    def record_backup_check(self, destination: str, name: str, problem: str | None) -> bool:
        """Record that a backup was read back, and what was wrong with it.

        False: this database does not know it.
        """

    def checks(self) -> list[Check]:
        """Return the checks of all columns that were ever checked."""

    def begin_check(
        self,
        worker: str,
        every: timedelta,
        lease_for: timedelta,
        table: str | None = None,
        column: str | None = None,
    ) -> Check | None:
        """Begin a check of the column that needs it most, or continue one whose worker has died.

        None: none is due, or others do it.
        """

    def continue_check(
        self,
        check: Check,
        lease_for: timedelta,
        looked_to: str | None = None,
        found_so_far: Mapping[str, Any] | None = None,
        state: CheckState | None = None,
    ) -> bool:
        """Record how far a check is, and extend its lease. False: another worker has it by now.

        What is None stays as it is. With a lease of 0, another worker can continue it at once.
        """

    def end_check(
        self, check: Check, state: CheckState, checked: Checked, *, source: CallSource = "api"
    ) -> bool:
        """End a check. False: another worker has it by now."""


class DamageQueue(Protocol):
    """The interface for finding damaged vectors, and for embedding their texts again."""

    def damaged(
        self, target: Target, after: str | None, batch: int = ROWS_CHECKED_IN_ONE_CALL
    ) -> DamagedRange:
        """Find completed jobs of the next rows after a record whose vector is lost or overwritten.

        It checks at most `batch` rows, in the order of the key, and fewer if their vectors are
        large. Raises Busy if the table is locked as a whole.
        """

    def requeue_damaged(self, target: Target, record_ids: Sequence[str], cost: float = 0.0) -> int:
        """Make the jobs of damaged records pending. Returns how many were completed until now.

        `cost`: US dollars that this will cost, as an estimate.
        """

    def repair_cost(self) -> float:
        """Return what the repairs of the last 24 hours cost, in US dollars."""


class ApiKeyQueue(Protocol):
    """The calls about the keys of the HTTP API."""

    def create_api_key(
        self,
        name: str,
        key_hash: bytes,
        scopes: Sequence[KeyScope],
        *,
        requests_per_minute: int | None = None,
        expires_in: timedelta | None = None,
        source: CallSource = "api",
    ) -> None:
        """Add a key by its SHA-256. Raises SettingsError if there is one of this name."""

    def revoke_api_key(self, name: str, *, source: CallSource = "api") -> bool:
        """Revoke a key for good. False if there is none of this name that is not revoked."""

    def api_keys(self) -> list[ApiKey]:
        """Return all keys, the oldest first."""

    def find_api_key(self, key_hash: bytes) -> ValidKey | None:
        """Return what the key with this hash may do; None if it is not valid."""


class AdminQueue(
    Queue,
    DashboardQueue,
    FolderQueue,
    SafekeepingQueue,
    DamageQueue,
    ApiKeyQueue,
    BatchQueue,
    Protocol,
):
    """The interface of a queue for the commands, which includes that for the engine.

    Raises SettingsError, with the message of the database, if a request is not valid.
    """

    def targets(self, table: str | None = None, column: str | None = None) -> list[Target]:
        """Return the watched columns of a table, by its name as typed, and of a name (None: any).

        Raises SettingsError if a table or a column is given and nothing of that name is watched.
        """

    def target(self, table: str, column: str) -> Target:
        """Return one watched column. Raises SettingsError if it is not watched."""

    def table_name(self, given: str) -> str:
        """Return the name under which a table is watched, for a name as typed.

        A table that was dropped is known by the name it was watched under. Raises SettingsError.
        """

    def backfill(self, target: Target, batch: int) -> int:
        """Enqueue the next rows that lack a vector. Returns how many; 0 if there are no more."""

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
        """Make jobs pending again that match all given arguments, at most `batch` of them.

        The batch begins after the job `after`. A job that failed since `failed_before` is left
        out if `status` is failed; it is not used otherwise. `ids`: only these jobs. The audit gets
        one entry for all batches, with the `source` of the call.
        """

    def list_jobs(
        self, statuses: Sequence[str], table: str | None, column: str | None, limit: int
    ) -> list[ListedJob]:
        """Return the first jobs in these states, with the beginnings of their texts."""

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
        """Make jobs pending whose text or id matches.

        Checks the next jobs after the job `after`, at most `batch` of them. Raises Busy if a table
        is locked as a whole, and StatementTimeout if a single text takes too long.
        """

    def recheck(
        self,
        table: str | None,
        column: str | None,
        after: int,
        batch: int = JOBS_IN_ONE_CALL,
        *,
        dry_run: bool,
    ) -> Rechecked:
        """Compare texts with what was embedded, and make the jobs of those that differ pending.

        Checks the next jobs after the job `after`, at most `batch` of them. Raises Busy if a table
        is locked as a whole.
        """

    def stats(self, since: timedelta) -> Stats:
        """Return the statistics of this period until now."""

    def control(
        self, desired_state: DesiredState, worker: str | None = None, *, source: CallSource = "api"
    ) -> int:
        """Send a command to all workers, or to one. Returns how many workers it reaches.

        Raises SettingsError if there is no such worker.
        """

    def commands(self) -> list[StandingCommand]:
        """Return the commands from `control` that are still in force, by worker."""

    def count_due(self, scope: Scope) -> int:
        """Return how many jobs of the scope are due now.

        Where it would take long to count them (see `TargetStatus.due_exact`), how many are pending.
        """

    def count_pending(self) -> int:
        """Return how many jobs are pending or in processing."""

    def status(self) -> list[TargetStatus]:
        """Return the progress of every watched column."""

    def coverage(self) -> list[TargetCoverage]:
        """Return how many rows of every watched column have their vector."""

    def progress(self) -> QueueProgress:
        """Return the progress of all columns together, and their rate."""

    def estimate(
        self, default_model: str, table: str | None, column: str | None, missing: bool
    ) -> list[Estimate]:
        """Return what is due, or (`missing`) what a backfill would enqueue, by column."""

    def rate(self, model: str) -> float | None:
        """Return the rows a second that a worker has completed with a model in the last week."""

    def cache_vectors(self, model: str, vectors: Cached, cap_mb: int) -> None:
        """Put vectors into the cache, as `cache` does, by the hashes of their texts."""

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
        """Return the rows nearest to `vector`, or with the words of `text`, or both, best first.

        `filter`: only rows with these values; a list of values means any of them. `exact`: compare
        all vectors, without an index. `per_document`: the most passages of one text, where texts
        are in chunks. See search_embeddings in the SQL API. Raises SettingsError if `model`, which
        made `vector`, is not that of the column, or `text` is given and the column has no language.
        """

    def match_function(self, target: Target) -> MatchFunction | None:
        """Return the function by which apps search a column; None: it has none."""

    def missing(self, target: Target, record_ids: Sequence[str]) -> set[str]:
        """Return the ids among these that no row with a vector has."""

    def has_vector_index(self, target: Target) -> bool:
        """Whether a search can use an index over the vectors of a column."""

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
        """Compare rows with their jobs and their vectors, and count what is found.

        Checks the next rows after the record `after`, in the order of the key, at most `batch` of
        them; with `of_chunks`, the vectors of chunks. A vector that is not of this `width`, or
        whose length differs from the usual one by more than the tolerance, is a finding; None:
        not checked. Raises Busy if the table is locked as a whole.
        """

    def sample_vectors(
        self, target: Target, sample: int, record_ids: Sequence[str] | None = None
    ) -> list[StoredVector]:
        """Return the vectors of random records with their texts, or those of the given records.

        Raises Busy if the table is locked as a whole.
        """

    def reembeddings(self) -> list[Reembedding]:
        """Return all re-embeddings, the earliest first."""

    def reembedding_events(self, reembedding: Reembedding) -> list[ReembeddingEvent]:
        """Return the latest steps of a re-embedding, the earliest of them first."""

    def reembedding_progress(self, reembedding: Reembedding) -> ReembeddingProgress:
        """Return how far the new vectors of a re-embedding are."""

    def reembedding_usage(self, reembedding: Reembedding) -> list[ReembeddingUsage]:
        """Return what edits took since the swap, with the old model and with the new one.

        One of the two if both are the same; none before a swap.
        """

    def check_schema(self) -> int:
        """Return by how many versions the schema is newer than this worker's: -1, 0 or 1.

        Raises SchemaError if it is missing, or if they are further apart.
        """

    def diagnose(self, *, samples: bool = True) -> list[Finding]:
        """Return the problems that the database finds in itself and its columns.

        Without `samples` it reads neither texts nor many jobs, and takes a fraction of a second.
        """

    def session(self) -> Session | None:
        """Return the role and rights of the connection. None: there is no connection."""

    def clock(self) -> datetime:
        """Return the time of the database, or of the server in front of it."""
