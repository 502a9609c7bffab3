"""Where backups are, and what is read and written there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from worker.errors import BackupDamaged, BackupError

MOST_READ = 2**26  # bytes of an object that is read into memory


class Storage(Protocol):
    """A destination of backups: objects, named like `daily/2026-11-30T17-35-02Z/manifest.json`.

    An object is there as a whole, or not at all. All calls raise BackupError if it cannot
    be used.
    """

    def names(self, prefix: str = "") -> Iterator[str]:
        """Return the names of the objects that begin with `prefix`."""

    def put(self, name: str, path: Path) -> None:
        """Store the bytes of a file."""

    def put_bytes(self, name: str, content: bytes) -> None:
        """Store some bytes."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a small object. Raises FileNotFoundError if there is none.

        Raises BackupDamaged if it has more than MOST_READ.
        """

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Return a file of this host with the bytes of an object. Raises FileNotFoundError."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects. Those that are gone already are fine."""

    def delete_unfinished(self, prefix: str) -> None:
        """Delete what writers that were killed left of objects with this prefix."""


def read_small(file: IO[bytes], name: str) -> bytes:
    """Read an object. Raises BackupDamaged if it has more than MOST_READ."""
    content = file.read(MOST_READ + 1)
    if len(content) > MOST_READ:
        raise BackupDamaged(f"{name} is too large to be what it should be")
    return content


def temporary_files_error(error: OSError) -> BackupError:
    """Return the error that a part cannot be in the folder for temporary files."""
    return BackupError(
        f"a part cannot be written to the folder for temporary files: {error.strerror}",
        "Make room there, or set TMPDIR to another folder; then run the command again.",
    )
