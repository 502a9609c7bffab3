"""What comes of a file: its text, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from worker.errors import ParseFailure

ErrorClass = Literal[
    "encrypted",
    "damaged",
    "no_text",
    "too_large",
    "unsupported",
    "parse_timed_out",
    "parse_killed",
]

HINTS: Mapping[ErrorClass, str] = {
    "encrypted": "Save a copy without a password.",
    "damaged": "Open the file in its program and save it again, or replace it with a good copy.",
    "no_text": "If it is a scan, add its text with a program such as ocrmypdf.",
    "too_large": "Split the file into smaller ones.",
    "unsupported": "Save the file in a supported format, such as PDF, DOCX or UTF-8 text.",
    "parse_timed_out": "Split the file, or allow its parser more time.",
    "parse_killed": "Save the file again or split it, or allow its parser more memory.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedFile:
    """The text of a file, as Markdown, with a form feed between two pages.

    `pages`: how many it has, if its format has pages. `encoding`: how a text file was decoded.
    """

    content: str
    mime: str
    title: str | None = None
    author: str | None = None
    pages: int | None = None
    encoding: str | None = None


def failure(error_class: ErrorClass, cause: str, hint: str | None = None) -> ParseFailure:
    """Return the error of a file. `cause` must not contain any of its text."""
    return ParseFailure(cause, hint or HINTS[error_class], error_class=error_class)
