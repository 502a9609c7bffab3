"""Compares a folder with the files that are known, and records what differs."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event
from typing import Protocol
from uuid import UUID

from worker.errors import WorkerError
from worker.files.sources import FolderUnavailable, SeenFile, SkippedFile, Source
from worker.queue import Folder, FolderQueue, FoundFile, KnownFile
from worker.queue.files import FILES_IN_ONE_CALL

LEASE = timedelta(seconds=60)  # after which another host may scan, if this one was killed
EXTEND_EVERY = LEASE.total_seconds() / 3


class Signatures(Protocol):
    """Tells whether two files have the same bytes: see Source."""

    def signature(self, file: SeenFile) -> str | None: ...

    def known_signature(self, file: KnownFile) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """`grace`: how long a file is missing until it is deleted."""

    grace: timedelta
    most_files: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a scan deleted nothing, and what to do. `path`: what it is about, within the folder."""

    cause: str
    hint: str
    path: str | None = None

    def __str__(self) -> str:
        about = "" if self.path is None else f": {self.path}"
        return f"{self.cause}{about}. {self.hint}"


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan found. `touched` files have another time and the same bytes. `missing` are the
    known files that it did not find, `deleted` those that are missing for too long."""

    files: int
    new: int
    changed: int
    renamed: int
    touched: int
    missing: int
    deleted: int
    skipped: dict[str, int]
    seconds: float
    problem: Problem | None


@dataclass(slots=True)
class Changes:
    """What differs between the known files and those that a scan sees.

    `missing`: the known files that it does not see; `hidden`: how many of them may be there.
    """

    found: list[FoundFile] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def add(self, kind: str, id: int | None, file: SeenFile, version: str | None) -> None:
        """Add a file to record, and count its kind."""
        self.counts[kind] += 1
        self.found.append(FoundFile(id, file.path, file.size, file.modified, file.stamp, version))


class Stopped(Exception):
    """The scan was stopped."""


def compare(
    known: Iterable[KnownFile],
    seen: Iterable[SeenFile],
    signatures: Signatures,
    may_be_there: Callable[[str], bool] = lambda path: False,
) -> Changes:
    """Return what differs. The bytes of a file are only read if its stamp differs or it is new,
    and a known file of its size may be the same.

    `may_be_there`: whether a path that was not seen can be there nevertheless.
    """
    changes = Changes()
    unseen = {file.path: file for file in known}
    new = []
    for file in seen:
        before = unseen.pop(file.path, None)
        if before is None:
            new.append(file)
        elif before.stamp != file.stamp:
            same = before.size == file.size and _are_same(before, file, signatures)
            version = None if same else file.stamp
            changes.add("touched" if same else "changed", before.id, file, version)
        elif before.is_missing:
            changes.add("returned", before.id, file, None)
    gone = [file for file in unseen.values() if not may_be_there(file.path)]
    changes.hidden = len(unseen) - len(gone)
    renamed = _add_new(changes, new, gone, signatures)
    changes.missing = [file.id for file in gone if file.id not in renamed]
    return changes


def _are_same(before: KnownFile, file: SeenFile, signatures: Signatures) -> bool:
    known = signatures.known_signature(before)
    return known is not None and known == signatures.signature(file)


def _add_new(
    changes: Changes, new: Iterable[SeenFile], gone: Iterable[KnownFile], signatures: Signatures
) -> set[int]:
    """Add the new files, and those that only have another name. Returns the ids of the latter."""
    candidates: dict[int, dict[str, list[KnownFile]]] = defaultdict(lambda: defaultdict(list))
    for known in gone:
        if signature := signatures.known_signature(known):
            candidates[known.size][signature].append(known)
    renamed = set()
    for file in new:
        of_size = candidates.get(file.size)
        same = of_size.get(signatures.signature(file) or "") if of_size else None
        if same:
            before = same.pop(0)
            renamed.add(before.id)
            changes.add("renamed", before.id, file, None)
        else:
            changes.add("new", None, file, file.stamp)
    return renamed


def scan(
    queue: FolderQueue, folder: Folder, source: Source, options: ScanOptions, stop: Event
) -> ScanResult | None:
    """Record what has changed in a folder. None: another host scans it now, or `stop` was set.

    Raises SettingsError if another host has taken over, and what an outage raises.
    """
    lease = queue.start_scan(folder, LEASE)
    if lease is None:
        return None
    running = _Scan(queue, folder, source, options, stop, lease)
    try:
        return running.run()
    except Stopped:
        with suppress(WorkerError):
            queue.record_files(folder, lease, timedelta(0), [])
        return None


@dataclass(slots=True)
class _Scan:
    """A scan that has its lease. It is a Signatures, whose calls extend the lease if it is time."""

    queue: FolderQueue
    folder: Folder
    source: Source
    options: ScanOptions
    stop: Event
    lease: UUID
    files: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, None] = field(default_factory=dict)
    is_cut: bool = False
    began: float = field(default_factory=time.monotonic)
    extended_at: float = field(default_factory=time.monotonic)

    def run(self) -> ScanResult:
        """Scan. Raises Stopped."""
        try:
            changes = compare(self._known(), self._seen(), self, self._may_be_there)
            problem = self._problem(changes)
        except FolderUnavailable as gone:
            changes, problem = Changes(), Problem(gone.cause, gone.hint)
        for first in range(0, len(changes.found), FILES_IN_ONE_CALL):
            self._extend(changes.found[first : first + FILES_IN_ONE_CALL])
        return self._finish(changes, problem)

    def signature(self, file: SeenFile) -> str | None:
        self._attend()
        return self.source.signature(file)

    def known_signature(self, file: KnownFile) -> str | None:
        return self.source.known_signature(file)

    def _known(self) -> Iterator[KnownFile]:
        for file in self.queue.known_files(self.folder):
            self._attend()
            yield file

    def _seen(self) -> Iterator[SeenFile]:
        for found in self.source.list():
            self._attend()
            if isinstance(found, SkippedFile):
                self.skipped[found.reason] += 1
                if found.reason == "unreadable":
                    self.unreadable[found.path] = None
            elif self.files == self.options.most_files:
                self.is_cut = True
                return
            else:
                self.files += 1
                yield found

    def _may_be_there(self, path: str) -> bool:
        if self.is_cut or not self.unreadable:
            return self.is_cut
        parts = path.split("/")
        return any("/".join(parts[:count]) in self.unreadable for count in range(1, len(parts) + 1))

    def _problem(self, changes: Changes) -> Problem | None:
        if self.is_cut:
            return Problem(
                f"it has more than {self.options.most_files} files",
                "Raise FILES_MOST, or leave out some of them with --exclude.",
            )
        if changes.hidden:
            return Problem(
                "folders with known files cannot be read",
                "Let this user read them.",
                next(iter(self.unreadable)),
            )
        if changes.missing and not self.files:
            return Problem(
                "it is empty, or none of its files fits the patterns",
                "Mount it, or put its files back. `worker files remove` forgets them.",
            )
        return None

    def _attend(self) -> None:
        """Extend the lease, if it is time. Raises Stopped."""
        if self.stop.is_set():
            raise Stopped
        if time.monotonic() - self.extended_at >= EXTEND_EVERY:
            self._extend([])

    def _extend(self, found: Sequence[FoundFile]) -> None:
        """Record files, which extends the lease."""
        if self.stop.is_set():
            raise Stopped
        self.queue.record_files(self.folder, self.lease, LEASE, found)
        self.extended_at = time.monotonic()

    def _finish(self, changes: Changes, problem: Problem | None) -> ScanResult:
        missing = [] if problem else changes.missing
        seconds = time.monotonic() - self.began
        deleted = self.queue.finish_scan(
            self.folder,
            self.lease,
            files=self.files,
            missing=missing,
            grace=self.options.grace,
            skipped=dict(self.skipped),
            seconds=seconds,
            problem=str(problem) if problem else None,
        )
        counts = changes.counts
        return ScanResult(
            files=self.files,
            new=counts["new"],
            changed=counts["changed"],
            renamed=counts["renamed"],
            touched=counts["touched"],
            missing=len(missing),
            deleted=deleted,
            skipped=dict(self.skipped),
            seconds=seconds,
            problem=problem,
        )
