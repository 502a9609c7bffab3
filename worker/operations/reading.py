"""Reads the texts of the files that this host has: once, or beside a worker as they become due."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from threading import Event
from uuid import UUID

from worker.engine.progress import Progress
from worker.engine.retrying import until_answered
from worker.engine.writing import Failure
from worker.errors import WorkerError
from worker.files.locations import open_source
from worker.files.parsing.options import MB, ParseOptions
from worker.files.parsing.pool import ParserPool
from worker.files.reading import FileReader, ReadStats
from worker.files.sources import Source
from worker.operations.background import in_background
from worker.operations.files import folders_of_host
from worker.operations.folder_scans import FolderScans, shown_path
from worker.operations.session import new_worker_name
from worker.queue import AdminQueue, FileJob, Folder, Scope
from worker.settings import Settings

MOST_READ_AT_ONCE = 4
QUIET_FOR = 10.0  # seconds; shorter reading needs no report of its progress
LOOK_AGAIN = 2.0  # seconds until the next look for files to read
LOOK_FOR_FOLDERS = 10.0  # seconds until the next look for folders


def read_files(
    queue: AdminQueue, settings: Settings, *, stop: Event, observer: Progress
) -> ReadStats:
    """Read all due files of the folders that this host has, and return what became of them.

    `observer` gets `files_read`, `file_failed` and, from time to time, `files_progress`. Waits for
    a database that is lost, and raises Unreachable if it stays so.
    """
    folders = until_answered(lambda: folders_of_host(queue, settings), observer, stop)
    if not folders:
        return ReadStats()
    with closing(ParserPool(parse_options(settings))) as parser:
        reading = _Reading(queue, settings, parser, stop, observer)
        return until_answered(lambda: reading.read(folders), observer, stop)


def parse_options(settings: Settings) -> ParseOptions:
    """Return the limits of parsers that the settings name."""
    return ParseOptions(
        workers=files_at_once(settings),
        memory_mb=settings.files_parse_memory_mb,
        seconds=settings.files_parse_seconds,
        fallback_encoding=settings.files_fallback_encoding,
        most_bytes=settings.files_max_mb * MB,
    )


def files_at_once(settings: Settings) -> int:
    """Return how many files are read at once."""
    at_once = settings.files_at_once or settings.embedding_max_concurrency or MOST_READ_AT_ONCE
    return at_once if settings.files_at_once else min(at_once, os.cpu_count() or 1)


_new_name = partial(new_worker_name, "files")


@dataclass(slots=True)
class _Reading:
    """Reads files with one parser pool, and reports it."""

    queue: AdminQueue
    settings: Settings
    parser: ParserPool
    stop: Event
    observer: Progress
    is_paused: Callable[[], bool] = lambda: False
    worker: str = field(default_factory=_new_name)
    may_hold_files: bool = False
    """Whether an outage may have left files claimed by this worker."""
    _sources: dict[UUID, Source] = field(default_factory=dict)
    _problems: set[str] = field(default_factory=set)
    _to_read: int | None = None
    _reported: float = 0.0
    """Percent."""

    def read(self, folders: Sequence[Folder]) -> ReadStats:
        """Read what is due in these folders."""
        readable = [folder for folder in folders if self._can_open(folder)]
        scope = Scope(
            worker=self.worker,
            lease=timedelta(seconds=self.settings.embedding_lease_seconds),
            default_model=self.settings.embedding_model,
        )
        reader = FileReader(
            queue=self.queue,
            scope=scope,
            sources=self._sources,
            parse=self.parser.parse,
            most_bytes=self.settings.files_max_mb * MB,
            at_once=files_at_once(self.settings),
            stop=self.stop,
            is_paused=self.is_paused,
            on_failure=self._report_failure,
            attend=self._report_progress,
        )
        if self.may_hold_files:
            self.queue.extend(scope, [])  # which releases them
        self.may_hold_files = True
        self._to_read, self._reported = None, 0.0
        stats = reader.read_due(readable)
        self.may_hold_files = False
        if stats.read or stats.failed:
            self.observer.event(
                "files_read", read=stats.read, failed=stats.failed, seconds=stats.seconds
            )
        return stats

    def _can_open(self, folder: Folder) -> bool:
        """Open the source of a folder, unless it is. A problem is reported once."""
        try:
            if folder.id not in self._sources:
                self._sources[folder.id] = open_source(folder, self.settings)
        except WorkerError as problem:
            cause = f"{folder.name}: {problem.cause}"
            if cause not in self._problems:
                self._problems.add(cause)
                self.observer.event("files_interrupted", cause=cause)
        return folder.id in self._sources

    def _report_failure(self, job: FileJob, failure: Failure) -> None:
        self.observer.event(
            "file_failed",
            path=shown_path(job.path, self.settings),
            error_class=failure.error_class,
        )

    def _report_progress(self, stats: ReadStats) -> None:
        """Report the progress every EMBEDDING_PROGRESS_INTERVAL percent, after QUIET_FOR."""
        if stats.seconds < QUIET_FOR:
            return
        done = stats.read + stats.failed
        if self._to_read is None:
            self._to_read = done + self.queue.count_files_to_read()
        total = max(self._to_read, done)  # more can become due meanwhile
        percent = 100 * done / total if total else 100.0
        if percent - self._reported < self.settings.embedding_progress_interval or done == total:
            return
        self._reported = percent
        per_second = done / stats.seconds
        self.observer.event(
            "files_progress",
            percent=percent,
            read=done,
            left=total - done,
            files_per_second=per_second,
            elapsed=stats.seconds,
            remaining=(total - done) / per_second,
        )


def files_served(
    settings: Settings, observer: Progress, is_paused: Callable[[], bool]
) -> AbstractContextManager[None]:
    """Scan the folders of this host and read their files, in threads with connections of their own,
    until the end of the `with`."""
    return in_background(
        {
            "scan": FolderScans(settings, observer, is_paused).serve,
            "read": _ServedReading(settings, observer, is_paused).serve,
        },
        settings,
        lambda _, cause: observer.event("files_interrupted", cause=cause),
    )


@dataclass(frozen=True, slots=True)
class _ServedReading:
    """Reads files as they become due."""

    settings: Settings
    observer: Progress
    is_paused: Callable[[], bool]
    worker: str = field(default_factory=_new_name)

    def serve(self, queue: AdminQueue, stop: Event) -> None:
        """Read what is due, and look again, until `stop` is set."""
        with closing(ParserPool(parse_options(self.settings))) as parser:
            reading = _Reading(
                queue,
                self.settings,
                parser,
                stop,
                self.observer,
                self.is_paused,
                self.worker,
                may_hold_files=True,
            )
            while not stop.is_set():
                folders = folders_of_host(queue, self.settings)
                until = time.monotonic() + LOOK_FOR_FOLDERS
                while time.monotonic() < until and not stop.is_set():
                    if folders:
                        reading.read(folders)
                    stop.wait(LOOK_AGAIN if folders else LOOK_FOR_FOLDERS)
