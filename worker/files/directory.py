"""The files of a directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from worker.digests import sha256_of
from worker.files.patterns import Patterns
from worker.files.sources import FolderUnavailable, SeenFile, SkippedFile
from worker.queue import KnownFile

Seen = SeenFile | SkippedFile


class Directory:
    """A Source: the files below a path. Their signature is the SHA-256 of their bytes.

    A symbolic link is followed if it stays below the path; one to a folder not again from inside a
    linked folder, and not if it leads to a folder that it is in.
    """

    def __init__(self, root: Path, patterns: Patterns) -> None:
        self._root = root
        self._patterns = patterns

    def list(self) -> Iterator[Seen]:
        try:
            root = os.path.realpath(self._root, strict=True)
            entries = sorted(os.scandir(root), key=lambda entry: entry.name)
        except OSError as problem:
            raise _unavailable(problem) from None
        yield from _Walk(root, self._patterns).files(entries)

    @contextmanager
    def local(self, path: str, size: int) -> Iterator[Path]:
        real = os.path.realpath(self._root / path, strict=True)
        if not _is_below(real, os.path.realpath(self._root)):
            raise PermissionError(errno.EACCES, "it leads out of its folder")
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise PermissionError(errno.EACCES, "it is no regular file")
        yield Path(real)

    def stamp(self, path: str) -> str | None:
        try:
            return _stamp(os.stat(self._root / path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def signature(self, file: SeenFile) -> str | None:
        try:
            with self.local(file.path, file.size) as local:
                return sha256_of(local).hex()
        except OSError:
            return None

    def known_signature(self, file: KnownFile) -> str | None:
        return None if file.sha256 is None else file.sha256.hex()


class _Walk:
    """Goes through the folders below a path, without recursion."""

    def __init__(self, root: str, patterns: Patterns) -> None:
        self._root = root
        self._patterns = patterns
        # Each with its path, its real path, and whether a link led to it or above it
        self._folders: list[tuple[str, str, bool]] = []

    def files(self, entries: list[os.DirEntry[str]]) -> Iterator[Seen]:
        """Find the files of the root, whose entries these are, and of all folders below."""
        yield from self._of_folder(entries, "", self._root, False)
        while self._folders:
            path, real, is_linked = self._folders.pop()
            try:
                entries = sorted(os.scandir(real), key=lambda entry: entry.name)
            except OSError as problem:
                yield _skipped(path, problem)
            else:
                yield from self._of_folder(entries, f"{path}/", real, is_linked)

    def _of_folder(
        self, entries: list[os.DirEntry[str]], prefix: str, real: str, is_linked: bool
    ) -> Iterator[Seen]:
        for entry in entries:
            path = prefix + entry.name
            if not _is_utf8(entry.name):
                yield SkippedFile(path, "not_utf8")
                continue
            try:
                found = self._look(entry, path, real, is_linked)
            except OSError as problem:
                found = _skipped(path, problem)
            if found:
                yield found

    def _look(self, entry: os.DirEntry[str], path: str, real: str, is_linked: bool) -> Seen | None:
        """Return a file, or remember a folder to go through. None: there is nothing to report."""
        is_link = entry.is_symlink()
        is_folder = entry.is_dir()
        if not (self._patterns.enters(path) if is_folder else self._patterns.fit(path)):
            return None
        target = os.path.realpath(entry.path) if is_link else f"{real}/{entry.name}"
        if is_link and not (_is_below(target, self._root) and os.path.exists(target)):
            return SkippedFile(path, "outside")
        if not is_folder:
            return _file(path, entry.stat())
        if not is_link or not (is_linked or _is_below(real, target)):
            self._folders.append((path, target, is_linked or is_link))
        return None


def _file(path: str, found: os.stat_result) -> Seen:
    if not stat.S_ISREG(found.st_mode):
        return SkippedFile(path, "special")
    try:
        modified = datetime.fromtimestamp(found.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):  # of the year 0 or 10000
        modified = None
    return SeenFile(path, found.st_size, modified, _stamp(found))


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_below(real: str, root: str) -> bool:
    """Whether a real path is another one or below it."""
    return real == root or real.startswith(root.rstrip("/") + "/")


def _skipped(path: str, problem: OSError) -> SkippedFile:
    if problem.errno == errno.ELOOP:
        return SkippedFile(path, "outside")
    is_gone = isinstance(problem, FileNotFoundError | NotADirectoryError)
    return SkippedFile(path, "gone" if is_gone else "unreadable")


def _unavailable(problem: OSError) -> FolderUnavailable:
    cause = problem.strerror or type(problem).__name__
    return FolderUnavailable(
        f"it cannot be read: {cause}",
        "Check that it is there and mounted, and that this user may read it.",
    )
