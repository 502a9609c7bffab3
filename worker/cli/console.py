"""Results go to stdout and messages to stderr, both as plain text."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from uuid import UUID

from worker.errors import WorkerError
from worker.terminal import as_json, write

LINE_EVERY = 5.0  # seconds between two lines of progress


def say(*lines: str) -> None:
    """Print messages to stderr."""
    for line in lines:
        write(sys.stderr, line)


def out(*lines: str) -> None:
    """Print lines of the result to stdout."""
    for line in lines:
        write(sys.stdout, line)


def out_json(value: object) -> None:
    """Print the result as one JSON document."""
    write(sys.stdout, as_json(value, _as_json, sys.stdout.encoding))


def report(problem: WorkerError) -> None:
    """Print one line with the cause of an error and one line with its hint."""
    say(f"error: {' '.join(problem.cause.split())}")
    if problem.hint:
        say(f"hint: {' '.join(problem.hint.split())}")


def confirmed(question: str) -> bool:
    """Ask at the terminal. Return whether the answer is yes; False without a terminal."""
    if not sys.stdin.isatty():
        return False
    write(sys.stderr, f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class ProgressLine:
    """Prints a line to stderr, unless it printed one within the last LINE_EVERY seconds."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def say(self, line: str) -> None:
        if time.monotonic() - self._said_at > LINE_EVERY:
            self._said_at = time.monotonic()
            say(line)


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
