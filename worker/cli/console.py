"""Data to stdout, talk to stderr, both in plain text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import typer
from rich.cells import cell_len, set_cell_size

from worker.errors import WorkerError
from worker.queue import Failure, Target, TargetStatus

NOTHING_WATCHED = "Nothing is watched yet. `worker watch TABLE --source COLUMN --column EMBEDDING`"


def say(message: str) -> None:
    """A remark to the person at the terminal."""
    typer.echo(message, err=True)


def out(text: str) -> None:
    """A line of the result."""
    typer.echo(text)


def out_json(value: object) -> None:
    """The result for a machine: one JSON document."""
    typer.echo(json.dumps(value, default=_as_json, ensure_ascii=False))


def out_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns: numbers to the right, None as a dash."""
    cells = [[_as_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(heads))]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    for line in [heads, *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        out("  ".join(padded).rstrip())


def report(problem: WorkerError) -> None:
    """One line of cause and one of cure."""
    say(f"error: {problem.cause}")
    if problem.hint:
        say(f"hint: {problem.hint}")


def name_of(watched: Target | TargetStatus | Failure) -> str:
    """A watched column as people write it: `table.column`."""
    return f"{watched.table_name}.{watched.embedding_column}"


def one_line(text: str, width: int) -> str:
    """The beginning of a text, on one line of at most `width` columns, all of it printable."""
    flat = " ".join(text.split())
    if not flat.isprintable():  # a terminal might obey it
        flat = "".join(
            letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in flat
        )
    return flat if cell_len(flat) <= width else set_cell_size(flat, width - 1).rstrip() + "…"


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes; False if nobody is there."""
    if not sys.stdin.isatty():
        return False
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def dollars(cost: float | None) -> str:
    """An amount of US dollars, to a hundredth of a cent."""
    if cost is None:
        return "not known"
    if not cost:
        return "$0"
    return "<$0.0001" if cost < 0.0001 else f"${cost:.4f}"


def _as_cell(value: object) -> str:
    return "-" if value is None else str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"<?\$?\d+(\.\d+)?(%| s| min| h)?", cell) is not None


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
