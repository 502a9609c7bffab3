"""Folders of files, and the jobs that read the texts of their files. See docs/sql-api.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from worker.queue.calls import Calls
from worker.queue.jobs import JobId, LeaseKey, RefusalReason
from worker.queue.transports import MOST_ROWS, columns_of

FolderKind = Literal["directory", "s3", "storage"]
FileState = Literal["found", "parsing", "unread", "waiting", "searchable", "failed", "missing"]
FILES_IN_ONE_CALL = MOST_ROWS


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose files are searched.

    `location` is the path of a directory, or `bucket/prefix`. `hosts` are those that have the
    directory; any host reads a bucket. `problem` is what was wrong with the last scan, which then
    deleted nothing. `files` are those of the last scan that ended, `skipped` what it left out, by
    reason.
    """

    id: UUID
    name: str
    kind: FolderKind
    location: str
    include: list[str]
    exclude: list[str]
    hosts: list[str]
    enabled: bool
    problem: str | None
    files: int | None
    skipped: dict[str, int]
    scanned_at: datetime | None
    scan_seconds: float | None

    def is_on(self, host: str) -> bool:
        """Whether this host can read its files."""
        return self.kind != "directory" or host in self.hosts


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as the last scan found it. `sha256` is that of its bytes when it was read, if it
    was. `is_missing`: later scans did not find it."""

    id: int
    path: str
    size: int
    stamp: str
    sha256: bytes | None
    is_missing: bool


@dataclass(frozen=True, slots=True)
class FoundFile:
    """What a scan records of a file. `id` is that of a known file, None for a new one. `version`
    None: its bytes are those that are known."""

    id: int | None
    path: str
    size: int
    modified: datetime | None
    stamp: str
    version: str | None


@dataclass(frozen=True, slots=True)
class FileJob:
    """A file to read, and the lease and hash that must come back with its text."""

    id: JobId
    content_hash: bytes
    lease: UUID
    attempts: int
    file_id: int
    folder: UUID
    path: str
    size: int
    stamp: str

    @property
    def lease_key(self) -> LeaseKey:
        return self.id, self.lease


@dataclass(frozen=True, slots=True)
class FileClaim:
    """The files to read, and how many other jobs were settled. False if nothing was due."""

    jobs: list[FileJob]
    settled: int

    def __bool__(self) -> bool:
        return bool(self.jobs or self.settled)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What was read from a file beside its text."""

    mime: str
    encoding: str | None = None
    title: str | None = None
    author: str | None = None
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file and how far it is. `error_class` and `error_message` say why it is not searchable."""

    id: int
    folder: str
    path: str
    size: int
    modified_at: datetime | None
    mime: str | None
    encoding: str | None
    title: str | None
    author: str | None
    pages: int | None
    state: FileState
    error_class: str | None
    error_message: str | None
    found_at: datetime
    parsed_at: datetime | None


@dataclass(frozen=True, slots=True)
class FilesPage:
    """Some files, the latest first, and the `before` of the next page; None: there is none."""

    files: list[FileStatus]
    next: int | None


@dataclass(frozen=True, slots=True)
class _FileIds:
    ids: list[int]
    next_id: int | None


@dataclass(frozen=True, slots=True)
class _Pending:
    """The columns of embedding_status that say how many jobs are pending."""

    table_name: str
    embedding_column: str
    pending: int


CLAIMED = {**columns_of(FileJob), "status": str}


class FileCalls(Calls):
    """What workers and readers do with folders and files."""

    def folders(self) -> list[Folder]:
        """Return all folders, by name."""
        return self._read(Folder, "embedding_folders", "name")

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
        return self._rows(
            FileStatus,
            "find_embedding_files",
            words=words,
            path_regex=path_regex,
            folder=folder,
            states=None if states is None else list(states),
            ids=None if ids is None else list(ids),
            max_rows=limit,
        )

    def page_files(
        self, folder: str | None, state: FileState | None, before: int | None, limit: int
    ) -> FilesPage:
        """Return the next files of a folder and a state (None: any), the latest first.

        `before`: those before the file with this id. A page can have fewer files than `limit`, or
        none, and others after it: it takes a few milliseconds however many files there are.
        """
        [page] = self._rows(
            _FileIds,
            "page_embedding_files",
            only_folder=folder,
            only_state=state,
            before_id=before,
            max_rows=limit,
        )
        found = self.files(ids=page.ids) if page.ids else []
        return FilesPage(sorted(found, key=lambda file: -file.id), page.next_id)

    def count_files_to_read(self) -> int:
        """Return how many files are not read yet, or again, in all folders."""
        status = self._read(_Pending, "embedding_status")
        column = ("embedding_files", "content")
        return sum(
            row.pending for row in status if (row.table_name, row.embedding_column) == column
        )

    def file_ids(self, path_regex: str, limit: int) -> list[int]:
        """Return the ids of files with such paths. Raises SettingsError if `path_regex` is not a
        regular expression of Postgres."""
        found: list[int] = self._call("embedding_file_ids", path_regex=path_regex, max_files=limit)
        return found

    # -- scans

    def start_scan(self, folder: Folder, lease_for: timedelta) -> UUID | None:
        """Begin a scan, and return its lease; None: another host scans the folder now."""
        lease = self._call("start_embedding_scan", folder=folder.id, lease_for=lease_for)
        return None if lease is None else UUID(str(lease))

    def known_files(self, folder: Folder) -> Iterator[KnownFile]:
        """Return all known files of a folder, in the order of their ids."""
        after = 0
        while True:
            page = self._rows(
                KnownFile,
                "known_embedding_files",
                folder=folder.id,
                after_id=after,
                batch=FILES_IN_ONE_CALL,
            )
            yield from page
            if len(page) < FILES_IN_ONE_CALL:
                return
            after = page[-1].id

    def record_files(
        self, folder: Folder, lease: UUID, lease_for: timedelta, found: Sequence[FoundFile]
    ) -> None:
        """Record files, and extend the lease of the scan. Raises SettingsError if it is lost."""
        self._call(
            "record_embedding_files",
            folder=folder.id,
            lease=lease,
            lease_for=lease_for,
            ids=[file.id for file in found],
            paths=[file.path for file in found],
            sizes=[file.size for file in found],
            modified=[file.modified for file in found],
            stamps=[file.stamp for file in found],
            versions=[file.version for file in found],
        )

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
        return int(
            self._call(
                "finish_embedding_scan",
                folder=folder.id,
                lease=lease,
                files=files,
                missing=list(missing),
                grace=grace,
                skipped=dict(skipped),
                seconds=seconds,
                problem=problem,
            )
        )

    # -- texts

    def claim_files(
        self, worker: str, folders: Sequence[Folder], batch: int, lease_for: timedelta
    ) -> FileClaim:
        """Claim at most `batch` files of these folders, to be completed, failed or released.

        Raises Busy if their table is locked as a whole.
        """
        arguments = {
            "worker": worker,
            "folders": [folder.id for folder in folders],
            "batch": batch,
            "lease_for": lease_for,
        }
        rows = self._transport.rows("claim_embedding_files", arguments, CLAIMED)
        jobs = [FileJob(**row) for row in rows if row.pop("status") == "processing"]
        return FileClaim(jobs, len(rows) - len(jobs))

    def complete_file(
        self, job: FileJob, content: str, sha256: bytes, facts: FileFacts
    ) -> RefusalReason | None:
        """Write the text of a file and complete its job. Returns why not, if it was refused."""
        reason: RefusalReason | None = self._call(
            "complete_embedding_file",
            id=job.id,
            lease=job.lease,
            hashes=[job.content_hash, sha256],
            content=content,
            facts=asdict(facts),
        )
        return reason


class FolderCalls(Calls):
    """What only the owner of the tables may do."""

    def add_folder(
        self,
        name: str,
        kind: FolderKind,
        location: str,
        include: Sequence[str],
        exclude: Sequence[str],
        host: str | None,
    ) -> Folder:
        """Add a folder, or this host to those that have it. Raises SettingsError if its name
        belongs to another one."""
        return self._rows(
            Folder,
            "add_embedding_folder",
            name=name,
            kind=kind,
            location=location,
            include=list(include),
            exclude=list(exclude),
            host=host,
        )[0]

    def remove_folder(self, name: str) -> int | None:
        """Remove a folder with its files and their chunks. Returns how many files it had; None:
        there is no such folder."""
        removed = self._call("remove_embedding_folder", name=name)
        return None if removed is None else int(removed)
