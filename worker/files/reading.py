"""Reads the texts of files that scans have found: claim, parse, complete.

One thread talks to the database. Files are fetched and parsed in other threads, so no transaction
is open meanwhile. A file that changes while it is read is read again later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from threading import Event
from uuid import UUID

from worker.digests import sha256_of
from worker.engine.heartbeat import BEATS_A_LEASE
from worker.engine.retry import backoff
from worker.engine.writing import NOT_OPENED, SECOND_TRY_AFTER, STOPPED, Failure, Release
from worker.errors import Busy, DatabaseError, ParseFailure, Unreachable, WorkerError
from worker.files.parsing.process import ParserClosed
from worker.files.parsing.results import ParsedFile
from worker.files.parsing.source import too_many_bytes
from worker.files.sources import FolderUnavailable, Source
from worker.queue import AdminQueue, FileFacts, FileJob, Folder, RefusalReason, Scope

ATTEND_EVERY = 1.0  # seconds
RETRIED = ("parse_timed_out", "parse_killed")  # may be the fault of a host that was busy
LATER = timedelta(minutes=1)
CHANGED = Release("it changed while it was read: the next scan finds it", timedelta(seconds=30))
LOCKED = Release("its row was locked", timedelta(seconds=1), "locked")
UNWRITTEN = Release("its text could not be written", timedelta(seconds=30), embedded=True)


@dataclass(slots=True)
class ReadStats:
    """What became of files."""

    read: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Read:
    """The text of a file, and the hash of the bytes that it was made from."""

    parsed: ParsedFile
    sha256: bytes


@dataclass(slots=True)
class FileReader:
    """Reads the files of folders that this host has, several at once.

    `parse` gets a file of this host and its name, and raises ParseFailure. A file of more than
    `most_bytes` is not fetched. `on_failure` gets each file that fails for good.
    """

    queue: AdminQueue
    scope: Scope
    sources: Mapping[UUID, Source]
    parse: Callable[[Path, str], ParsedFile]
    most_bytes: int
    at_once: int
    stop: Event
    is_paused: Callable[[], bool] = lambda: False
    """Whether no more files may be claimed now."""
    on_failure: Callable[[FileJob, Failure], None] = lambda job, failure: None
    attend: Callable[[ReadStats], None] = lambda stats: None
    """Called about once a second with what became of files so far."""
    stats: ReadStats = field(default_factory=ReadStats)
    _in_flight: dict[Future[_Read | Release | Failure], FileJob] = field(default_factory=dict)
    _began: float = 0.0
    _extended_at: float = field(default_factory=time.monotonic)

    def read_due(self, folders: Sequence[Folder]) -> ReadStats:
        """Read files until none is due, it is paused or `stop` is set. Returns what became of them.

        Raises Unreachable; what is in flight is then due again when its lease runs out.
        """
        self.stats, self._began = ReadStats(), time.monotonic()
        threads = ThreadPoolExecutor(self.at_once, "read")
        try:
            while not self.stop.is_set() and (self._claim(folders, threads) or self._in_flight):
                self._write_what_is_done()
            for job in self._in_flight.values():
                self._release(job, STOPPED)
        finally:
            self._in_flight.clear()
            threads.shutdown(wait=False, cancel_futures=True)
        return self.stats

    def _claim(self, folders: Sequence[Folder], threads: ThreadPoolExecutor) -> bool:
        """Claim as many files as there is room for. Returns whether more may be due."""
        room = self.at_once - len(self._in_flight)
        if self.is_paused():
            return False
        if room <= 0:
            return True
        try:
            claim = self.queue.claim_files(self.scope.worker, folders, room, self.scope.lease)
        except Busy:
            return False
        for job in claim.jobs:
            self._in_flight[threads.submit(self._read, job)] = job
        return bool(claim)

    def _read(self, job: FileJob) -> _Read | Release | Failure:
        source = self.sources[job.folder]
        try:
            if source.stamp(job.path) != job.stamp:
                return CHANGED
            if job.size > self.most_bytes:
                raise too_many_bytes(self.most_bytes)
            with source.local(job.path, job.size) as local:
                parsed = self.parse(local, PurePosixPath(job.path).name)
                digest = sha256_of(local)
            return _Read(parsed, digest) if source.stamp(job.path) == job.stamp else CHANGED
        except ParseFailure as error:
            pause = (
                backoff(error.error_class, job.attempts + 1)
                if error.error_class in RETRIED
                else None
            )
            return Failure(error.error_class, _words(error), pause)
        except OSError as error:
            cause = f"it cannot be opened: {error.strerror or type(error).__name__}"
            return Failure("unreadable", cause, backoff("unreadable", job.attempts + 1))
        except ParserClosed:
            return STOPPED
        except FolderUnavailable as error:
            return Release(error.cause, LATER, "folder_unavailable")
        except WorkerError as error:  # no parser can be started
            return Release(error.cause, LATER, NOT_OPENED)
        except Exception as error:  # a defect: its message may hold what is in the file
            cause = f"it cannot be read, because of a defect: {type(error).__name__}"
            return Failure("not_read", cause, backoff("not_read", job.attempts + 1))

    def _write_what_is_done(self) -> None:
        done, _ = wait(self._in_flight, ATTEND_EVERY, FIRST_COMPLETED)
        for future in done:
            job = self._in_flight[future]
            self._write(job, future.result())
            del self._in_flight[future]
        self._extend_leases()
        self.stats.seconds = time.monotonic() - self._began
        self.attend(self.stats)

    def _write(self, job: FileJob, result: _Read | Release | Failure) -> None:
        match result:
            case _Read(parsed, digest):
                self._complete(job, parsed, digest)
            case Release():
                self._release(job, result)
            case Failure():
                self._fail(job, result)

    def _complete(self, job: FileJob, parsed: ParsedFile, digest: bytes) -> None:
        facts = FileFacts(parsed.mime, parsed.encoding, parsed.title, parsed.author, parsed.pages)
        try:
            refusal = self._write_text(job, parsed.content, digest, facts)
        except Unreachable:
            raise
        except DatabaseError as error:
            self._release(job, UNWRITTEN if isinstance(error, Busy) else _unwritten(error))
            return
        if refusal == "locked":
            self._release(job, LOCKED)
        elif refusal == "changed":
            self._release(job, CHANGED)
        elif refusal is None:
            self.stats.read += 1

    def _write_text(
        self, job: FileJob, content: str, digest: bytes, facts: FileFacts
    ) -> RefusalReason | None:
        """Complete a file, a locked one with a second try. Returns why not."""
        refusal = self.queue.complete_file(job, content, digest, facts)
        if refusal == "locked":
            self.stop.wait(SECOND_TRY_AFTER)
            refusal = self.queue.complete_file(job, content, digest, facts)
        return refusal

    def _release(self, job: FileJob, release: Release) -> None:
        self.queue.release(
            [job], release.retry_in, release.reason, release.error_class, embedded=release.embedded
        )

    def _fail(self, job: FileJob, failure: Failure) -> None:
        failed = self.queue.fail([job], failure.error_class, failure.reason, failure.retry_in)
        if failed:
            self.stats.failed += failed
            self.on_failure(job, failure)

    def _extend_leases(self) -> None:
        """Extend the leases of the files in flight, if it is time."""
        now = time.monotonic()
        if now - self._extended_at >= self.scope.lease.total_seconds() / BEATS_A_LEASE:
            self.queue.extend(self.scope, list(self._in_flight.values()))
            self._extended_at = now


def _words(error: ParseFailure) -> str:
    return f"{error.cause}: {error.hint}" if error.hint else error.cause


def _unwritten(error: DatabaseError) -> Release:
    return Release(error.cause, UNWRITTEN.retry_in, "unwritten", embedded=True)
