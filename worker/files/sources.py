"""Where the files of a folder are, and what a scan finds there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from worker.queue import KnownFile

SkipReason = Literal["outside", "special", "not_utf8", "unreadable", "gone"]
"""Why a file or a folder is left out:

outside     a symbolic link that leads out of the folder, or to nothing
special     a socket, a pipe or a device
not_utf8    its name is not UTF-8
unreadable  the system refuses to read it
gone        it vanished during the scan
"""


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file as a scan sees it. `stamp`: another one means that its bytes may have changed."""

    path: str
    size: int
    modified: datetime | None
    stamp: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file, or a folder with all that is in it, that a scan leaves out."""

    path: str
    reason: SkipReason


class FolderUnavailable(Exception):
    """The folder as a whole cannot be read now: one line of cause, one line of hint."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


class Source(Protocol):
    """The files of a folder. Any thread may call it."""

    def list(self) -> Iterator[SeenFile | SkippedFile]:
        """Find the files. Raises FolderUnavailable."""

    def local(self, path: str, size: int) -> AbstractContextManager[Path]:
        """Return a file of this host with the bytes of a file. Raises OSError."""

    def stamp(self, path: str) -> str | None:
        """Return the stamp of a file as it is now. None: it is gone. Raises OSError."""

    def signature(self, file: SeenFile) -> str | None:
        """Return what tells the bytes of a file; None: it cannot be read."""

    def known_signature(self, file: KnownFile) -> str | None:
        """Return the signature of a known file; None: its bytes were not read yet."""
