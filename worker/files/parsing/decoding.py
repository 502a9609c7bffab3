"""From bytes to text: a byte order mark, strict UTF-8, or the encoding that is configured.

Nothing is guessed from the frequency of letters: such guesses are wrong without a warning.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from worker.errors import ParseFailure
from worker.files.parsing.results import failure

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # which no text of one byte each has
SAMPLE = 4096  # bytes
PLAIN = 0.3  # the share of ASCII by which UTF-16 is recognised without a byte order mark
DECLARED = re.compile(
    rb"""<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE
)
DECLARABLE = re.compile(
    "iso8859-|cp|koi8|gb|big5|euc|shift_jis|iso2022_|mac-|latin|tis-|hz|johab|ptcp"
)


class Decoded(NamedTuple):
    """A text and its encoding. Each of its lines ends with a line feed."""

    text: str
    encoding: str


def decode(data: bytes, fallback: str, declared: str | None = None) -> Decoded:
    """Decode the bytes of a file. `declared` is the encoding that the file itself names.

    Raises ParseFailure if they are no text.
    """
    encoding, mark = _marked(data) or (_utf16_without_mark(data), 0)
    if encoding:
        return Decoded(_decode_unicode(data[mark:], encoding), encoding)
    if b"\0" in data:
        raise _not_text()
    try:
        return Decoded(_with_line_feeds(data.decode()), "utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not data[: error.start].isascii():
            raise _ends_too_early() from None
    if CONTROLS.search(data):
        raise _not_text()
    for encoding in (declared, fallback):
        try:
            if encoding:
                return Decoded(_with_line_feeds(data.decode(encoding)), encoding)
        except UnicodeDecodeError:
            continue
    raise failure(
        "unsupported",
        f"it is neither UTF-8 nor {fallback}",
        "Save the file as UTF-8, or set the fallback encoding to that of your files.",
    )


def declared_encoding(data: bytes) -> str | None:
    """Return the encoding that HTML or XML names near its beginning, if it is of one byte or more
    and Python knows it."""
    found = DECLARED.search(data[:SAMPLE])
    try:
        name = codecs.lookup(found[1].decode("ascii")).name if found else ""
    except LookupError:
        return None
    return name if DECLARABLE.match(name) else None


def without_surrogates(text: str) -> str:
    """Return the text as Postgres can store it: without NUL, and without halves of characters."""
    text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _marked(data: bytes) -> tuple[str, int] | None:
    """Return the encoding that a byte order mark shows, and the length of the mark."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return None


def _utf16_without_mark(data: bytes) -> str | None:
    """Return which UTF-16 a text is if much of it is ASCII: then every other byte is NUL."""
    sample = data[:SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(data) % 2 or max(even, odd) < PLAIN * len(sample) / 2 or min(even, odd):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _decode_unicode(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _ends_too_early() if error.end >= len(data) else _not_text() from None
    if "\0" in text:
        raise _not_text()
    return _with_line_feeds(text)


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _not_text() -> ParseFailure:
    return failure("unsupported", "it is a binary file of an unknown type")


def _ends_too_early() -> ParseFailure:
    return failure("damaged", "it ends in the middle of a character")
