"""Writes Markdown that worker/chunking splits well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from worker.files.parsing.options import ParseOptions
from worker.files.parsing.results import failure
from worker.files.parsing.source import too_long

MOST_ROWS = 250_000  # of all tables of a file
# The beginnings of lines that would make a heading, a fence or front matter of plain text.
MARKUP = re.compile(r"^(?= {0,3}(?:#{1,6}(?:\s|\Z)|`{3}|~{3}|=+[ \t]*$|-+[ \t]*$))", re.MULTILINE)
BACKTICKS = re.compile(r"`{3,}")


class Markdown:
    """The text of a file, block by block. Raises ParseFailure as soon as it is too long."""

    def __init__(self, options: ParseOptions) -> None:
        self.pages = 0
        self._most = options.most_characters
        self._characters = 0
        self._rows = 0
        self._parts: list[str] = []

    def page(self) -> None:
        """Begin a page."""
        if self.pages:
            self._write("\f\n")
        self.pages += 1

    def heading(self, level: int, title: str) -> None:
        """Write a heading, unless it is empty."""
        title = one_line(title)
        if title:
            self._write(f"{'#' * min(max(level, 1), 6)} {title}\n\n")

    def text(self, text: str) -> None:
        """Write a paragraph of plain text, unless it is empty."""
        self.block(MARKUP.sub(r"\\", text.strip()))

    def item(self, bullet: str, text: str) -> None:
        """Write an item of a list, unless it is empty."""
        if text.strip():
            self.block(f"{bullet} " + MARKUP.sub(r"\\", text.strip()))

    def block(self, text: str) -> None:
        """Write Markdown as it is, unless it is empty."""
        if text.strip():
            self._write(f"{text.rstrip()}\n\n")

    def code(self, code: str, language: str = "") -> None:
        """Write a fenced block of code."""
        longest = max((len(run[0]) for run in BACKTICKS.finditer(code)), default=2)
        fence = "`" * (longest + 1)
        if code.strip():
            # In code, a form feed is white space: Emacs shows it as a section.
            self.block(f"{fence}{language}\n{code.replace(chr(12), '').rstrip()}\n{fence}")

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Write a table. Its first row is the head; rows without text are left out."""
        written = 0
        for row in rows:
            line = " | ".join(one_line(cell).replace("|", r"\|") for cell in row)
            if not line.strip(" |"):
                continue
            self._write(f"| {line} |\n")
            if not written:
                self._write(f"|{'---|' * len(row)}\n")
            written += 1
            self._count_row()
        if written:
            self._write("\n")

    def content(self) -> str:
        """Return all that was written."""
        return "".join(self._parts).rstrip("\n")

    def _write(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > self._most:
            raise too_long(self._most)
        self._parts.append(text)

    def _count_row(self) -> None:
        self._rows += 1
        if self._rows > MOST_ROWS:
            raise failure(
                "too_large",
                f"its tables have more than {MOST_ROWS:,} rows",
                "Split the file, or load it into a table of the database and watch that.",
            )


def one_line(text: str) -> str:
    """Return the text with single spaces as its only white space."""
    return " ".join(text.split())
