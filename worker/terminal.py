"""Writes all output to stdout and stderr, without characters that control or confuse a terminal.

Names, texts and messages come from databases and servers. Some characters control a terminal, and
others reverse the direction of the text after them, so both are replaced in every printed line.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import TextIO

from worker.errors import WorkerError

# Unicode's categories Cc, Cf, Cs, Zl and Zp, without the two joiners U+200C and U+200D: words of
# Persian and Hindi, and many emoji, fall apart without them. A test compares this with Unicode.
STEERING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e"
    r"\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    r"\U000e0020-\U000e007f]"
)

# Replacements, of the same width, for our own signs in an encoding that lacks them.
PLAIN = str.maketrans("█░▏▎▍▌▋▊▉▁▂▃▄▅▆▇…–\u2019", "#........_.-=+*%~-'")  # noqa: RUF001
PLAIN_ERRORS = "worker-plain"

_closed: set[TextIO] = set()


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, even if they are closed or have a limited encoding."""
    codecs.register_error(PLAIN_ERRORS, _as_plain)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=PLAIN_ERRORS)


def write(
    stream: TextIO, line: str, end: str = "\n", highlight: tuple[str, str] | None = None
) -> None:
    """Write a line to stdout, stderr or the stream of a log.

    `highlight` is a word of the line and the number of its colour. If the reader has closed the
    stream, output is dropped. Raises WorkerError if stdout cannot be written for another reason.
    """
    text = printable(line)
    if highlight:
        word, color = highlight
        text = text.replace(word, f"\033[{color}m{word}\033[0m", 1)
    try:
        stream.write(text + end)
        stream.flush()
    except OSError as problem:
        _drop_the_rest(stream)
        if stream is sys.stdout and not isinstance(problem, BrokenPipeError):
            raise WorkerError(
                f"the output cannot be written: {problem.strerror}",
                "Free some space, or write to another place.",
            ) from None


def is_closed(stream: TextIO) -> bool:
    """Whether the reader has closed a stream, as with `| head`."""
    return stream in _closed


def printable(text: str) -> str:
    """Return the text with U+FFFD for each character that controls a terminal, or breaks a line."""
    return STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def as_json(
    value: object, default: Callable[[object], str] = str, encoding: str | None = None
) -> str:
    r"""Return one line of JSON, with \uXXXX for characters that control a terminal.

    If `encoding` lacks a character, all characters beyond ASCII are written so.
    """
    text = json.dumps(value, default=default, ensure_ascii=False)
    text = STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=default)
    return text


def _drop_the_rest(stream: TextIO) -> None:
    """Discard what is still in the buffer, and all later output."""
    _closed.add(stream)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _as_plain(problem: UnicodeError) -> tuple[str, int]:
    """Return replacements for characters that the encoding of a stream lacks."""
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    lacking = problem.object[problem.start : problem.end].translate(PLAIN)
    return re.sub(r"[^\x00-\x7f]", "?", lacking), problem.end
