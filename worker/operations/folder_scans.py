"""Scans the folders of this host while a worker runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from uuid import UUID

from worker.engine.progress import Progress
from worker.errors import Unreachable, WorkerError
from worker.files.locations import open_source
from worker.files.scan import Problem, ScanResult, scan
from worker.files.sources import Source
from worker.files.watching import DirectoryWatch
from worker.operations.files import folders_of_host, scan_options
from worker.queue import Folder, FolderQueue
from worker.settings import Settings

REFRESH = 5.0  # seconds between two looks for folders that were added or removed
SLICE = 0.25  # seconds between two checks whether to stop
REST = 4  # times as long as a scan took, until a hint leads to the next one
HIDDEN = "(hidden)"


def shown_path(path: str, settings: Settings) -> str:
    """Return the path of a file as it may appear in a log."""
    return path if settings.files_log_paths else HIDDEN


@dataclass(slots=True)
class _Known:
    """A folder of this host, and when it is scanned next."""

    folder: Folder
    watch: DirectoryWatch | None
    hint: Event
    source: Source | None = None
    due_at: float = 0.0
    earliest_at: float = 0.0
    missing: int = 0
    problem: Problem | None = None
    is_new: bool = True

    @property
    def next_at(self) -> float:
        """When it is due, as far as is known now."""
        return min(self.due_at, self.earliest_at) if self.hint.is_set() else self.due_at

    def update(self, folder: Folder, every: float) -> None:
        """Take over what the database says now. Another host may have scanned it meanwhile."""
        if not self.is_new and folder.scanned_at != self.folder.scanned_at:
            self.due_at = time.monotonic() + every
        if (folder.include, folder.exclude) != (self.folder.include, self.folder.exclude):
            self.due_at, self.source = 0.0, None
        self.folder = folder


@dataclass(slots=True)
class FolderScans:
    """Scans each folder of this host at the beginning, after a hint that something has changed in
    it, and every FILES_SCAN_EVERY; none while `is_paused`.

    Reports `folder_scanned` and `folder_problem` to the observer. An outage of the database is
    none of them: the run reports that.
    """

    settings: Settings
    observer: Progress
    is_paused: Callable[[], bool] = lambda: False
    _known: dict[UUID, _Known] = field(default_factory=dict)
    _wake: Event = field(default_factory=Event)

    def serve(self, queue: FolderQueue, stop: Event) -> None:
        """Scan until `stop` is set."""
        try:
            while not stop.is_set():
                self._wake.clear()
                if not self.is_paused() and self._scan_what_is_due(queue, stop):
                    self._wait(stop)
                else:
                    stop.wait(REFRESH)
        finally:
            for known in self._known.values():
                _close(known)
            self._known.clear()

    def _scan_what_is_due(self, queue: FolderQueue, stop: Event) -> bool:
        """Return whether the database has answered."""
        try:
            self._refresh(queue)
        except WorkerError:  # the run reports that
            return False
        for known in list(self._known.values()):
            if time.monotonic() >= known.next_at and not stop.is_set():
                self._scan(queue, known, stop)
        return True

    def _refresh(self, queue: FolderQueue) -> None:
        folders = {folder.id: folder for folder in folders_of_host(queue, self.settings)}
        for id in self._known.keys() - folders.keys():
            _close(self._known.pop(id))
        for id, folder in folders.items():
            if id in self._known:
                self._known[id].update(folder, self._every)
            else:
                self._known[id] = self._begin(folder)

    def _begin(self, folder: Folder) -> _Known:
        hint = Event()

        def on_change() -> None:
            hint.set()
            self._wake.set()

        is_directory = folder.kind == "directory"
        watch = DirectoryWatch(Path(folder.location), on_change) if is_directory else None
        return _Known(folder, watch, hint)

    def _scan(self, queue: FolderQueue, known: _Known, stop: Event) -> None:
        known.hint.clear()
        began = time.monotonic()
        try:
            if known.source is None:
                known.source = open_source(known.folder, self.settings)
            options = scan_options(self.settings)
            result = scan(queue, known.folder, known.source, options, stop)
        except Unreachable:
            known.due_at = began + REFRESH
            return
        except Exception as problem:  # of this folder: the others are scanned all the same
            self._report_problem(known, _problem_of(problem))
            result = None
        now = time.monotonic()
        known.earliest_at = now + REST * (now - began)
        known.due_at = now + (REFRESH if result is None else self._every)
        if result:
            self._report(known, result)

    def _report(self, known: _Known, result: ScanResult) -> None:
        """Report a scan if it is the first, or found something."""
        found = result.new + result.changed + result.renamed + result.deleted
        if found or known.is_new or result.missing != known.missing:
            self.observer.event(
                "folder_scanned",
                folder=known.folder.name,
                files=result.files,
                new=result.new,
                changed=result.changed,
                renamed=result.renamed,
                missing=result.missing,
                deleted=result.deleted,
                seconds=result.seconds,
            )
        known.is_new, known.missing = False, result.missing
        if result.problem is None:
            known.problem = None
        else:
            self._report_problem(known, result.problem)

    def _report_problem(self, known: _Known, problem: Problem) -> None:
        """Report a problem once, until it is another one or gone."""
        if known.problem == problem:
            return
        known.problem = problem
        path = problem.path and shown_path(problem.path, self.settings)
        self.observer.event(
            "folder_problem",
            folder=known.folder.name,
            cause=f"{problem.cause}: {path}" if path else problem.cause,
            hint=problem.hint,
        )

    @property
    def _every(self) -> float:
        return self.settings.files_scan_every.total_seconds()

    def _wait(self, stop: Event) -> None:
        """Wait for a hint, or until it is time to look again."""
        dues = [known.next_at for known in self._known.values()]
        until = min([time.monotonic() + REFRESH, *dues])
        while time.monotonic() < until and not stop.is_set() and not self._wake.wait(SLICE):
            pass


def _problem_of(error: Exception) -> Problem:
    """Say what went wrong. The message of a defect may hold what is in a file."""
    if isinstance(error, WorkerError):
        return Problem(error.cause, error.hint or "")
    return Problem(f"a defect: {type(error).__name__}", "Report it, please.")


def _close(known: _Known) -> None:
    if known.watch:
        known.watch.close()
