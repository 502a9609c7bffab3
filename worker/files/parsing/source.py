"""A file that is parsed, and what its parser makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.files.parsing.decoding import Decoded, decode
from worker.files.parsing.options import ParseOptions
from worker.files.parsing.results import failure

BYTES_PER_CHARACTER = 4  # at most, in UTF-8, UTF-16 and UTF-32
WHOLE_NAMES = ("dockerfile", "makefile")
HEAD = 8192  # bytes, by which the type of a file is recognised


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a file and what the file says about itself."""

    content: str
    title: str | None = None
    author: str | None = None
    pages: int | None = None
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file: where it is, what it is called, and what its parser may take."""

    path: Path
    name: str
    options: ParseOptions

    @property
    def suffix(self) -> str:
        """What follows the last dot of the name, or one of WHOLE_NAMES."""
        _, dot, suffix = self.name.lower().rpartition(".")
        return suffix if dot or suffix in WHOLE_NAMES else ""

    def head(self) -> bytes:
        """Return the first bytes."""
        with self.path.open("rb") as file:
            return file.read(HEAD)

    def data(self) -> bytes:
        """Return all bytes of a file of text. Raises ParseFailure if there are too many."""
        most = self.options.most_characters * BYTES_PER_CHARACTER
        with self.path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise too_long(self.options.most_characters)
        return data

    def text(self) -> Decoded:
        """Return the text and its encoding. Raises ParseFailure if it is no text."""
        return decode(self.data(), self.options.fallback_encoding)


def too_many_bytes(most_bytes: int) -> Exception:
    """Return the error of a file that is too large."""
    return failure("too_large", f"it has more than {most_bytes:,} bytes")


def too_long(most_characters: int) -> Exception:
    """Return the error of a file with too much text."""
    return failure("too_large", f"its text has more than {most_characters:,} characters")
