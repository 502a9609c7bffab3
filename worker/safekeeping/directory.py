"""Backups in a directory. Files are only for the user who made them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import IO

from worker.errors import BackupDamaged, BackupError
from worker.safekeeping.storage import read_small

UNFINISHED = ".partial"  # ends the name of a file that is being written
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM}


class Directory:
    """A Storage. A file gets its name when all of its bytes are on the disk."""

    def __init__(self, root: Path) -> None:
        """Open a directory, which may not exist yet."""
        self._root = root
        self._seen: tuple[int, int] | None = None

    def names(self, prefix: str = "") -> Iterator[str]:
        with self._explained():
            if self._is_there():
                yield from (name for name in self._files(prefix) if not _is_unfinished(name))

    def put(self, name: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(name, lambda target: shutil.copyfileobj(source, target, 2**20))

    def put_bytes(self, name: str, content: bytes) -> None:
        self._write(name, lambda target: target.write(content))

    def read(self, name: str) -> bytes:
        with self._explained(reads=True), self._path(name).open("rb") as file:
            return read_small(file, name)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        path = self._path(name)
        with self._explained(reads=True):
            path.open("rb").close()
        yield path

    def delete(self, names: Iterable[str]) -> None:
        with self._explained():
            for name in names:
                path = self._path(name)
                path.unlink(missing_ok=True)
                self._delete_empty_folders(path.parent)

    def delete_unfinished(self, prefix: str) -> None:
        with self._explained():
            self.delete([name for name in self._files(prefix) if _is_unfinished(name)])

    def _files(self, prefix: str) -> Iterator[str]:
        """Find all files, in the order of their names, without those of other folders."""
        within = self._path(prefix.rpartition("/")[0])
        for folder, folders, files in os.walk(within, onerror=_raise_unless_missing):
            folders.sort()
            for file in sorted(files):
                name = Path(folder, file).relative_to(self._root).as_posix()
                if name.startswith(prefix):
                    yield name

    def _write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        path = self._path(name)
        with self._explained():
            self._make_folders(path.parent)
            descriptor, beside = mkstemp(UNFINISHED, ".", path.parent)  # with mode 0600
            try:
                with os.fdopen(descriptor, "wb") as target:
                    write(target)
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(beside, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside)
                raise
            _sync_folder(path.parent)

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and those above it. The root itself is made only at first: if it vanishes,
        another disk would get what follows."""
        if self._seen is None:
            self._root.mkdir(0o700, parents=True, exist_ok=True)
        self._check_root()
        above = [each for each in folder.parents if each.is_relative_to(self._root)]
        for each in [*reversed(above), folder]:
            if not each.is_dir():
                each.mkdir(0o700, exist_ok=True)
                _sync_folder(each.parent)

    def _is_there(self) -> bool:
        """Whether there is a directory. Raises BackupError if it was there and is not the same."""
        if self._seen is None and not self._root.exists():
            return False
        self._check_root()
        return True

    def _check_root(self) -> None:
        status = self._root.stat()
        now = (status.st_dev, status.st_ino)
        self._seen = self._seen or now
        if now != self._seen:
            raise OSError(errno.ENOTCONN, "another directory has taken its place")

    def _delete_empty_folders(self, folder: Path) -> None:
        with suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def _path(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/"):
            raise BackupDamaged(f"{name} leads out of the directory of backups")
        return self._root / name

    @contextmanager
    def _explained(self, *, reads: bool = False) -> Iterator[None]:
        """Turn the errors of the system into one line of cause and one of cure.

        Of one that `reads`, a FileNotFoundError stays one, unless the directory itself vanished.
        """
        try:
            yield
        except OSError as error:
            is_missing = reads and isinstance(error, FileNotFoundError)
            if is_missing and (self._seen is None or self._root.is_dir()):
                raise
            raise BackupError(f"{self._root}: {error.strerror}", _cure(error.errno)) from None


def _cure(code: int | None) -> str:
    if code in FULL:
        return "Make room there or keep fewer backups (--keep), then run the command again."
    if code in REFUSED:
        return "Let this user write there, or choose another destination (--to)."
    if code == errno.EROFS:
        return "Mount it so that it can be written, or choose another destination (--to)."
    return "Check that it is a directory and that its disk is mounted, then run the command again."


def _is_unfinished(name: str) -> bool:
    return name.endswith(UNFINISHED)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network mounts cannot
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
