"""Data to stdout, talk to stderr, both in plain text."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.errors import WorkerError
from worker.queue import Failure, ListedJob, Target, TargetStatus
from worker.terminal import as_json, printable, write

NOTHING_WATCHED = "Nothing is watched yet. `worker watch TABLE --source COLUMN --column EMBEDDING`"

LEAST_OF_A_COLUMN = 8  # cells
EIGHTHS = " ▏▎▍▌▋▊▉█"


def say(*lines: str) -> None:
    """Remarks to the person at the terminal."""
    for line in lines:
        write(sys.stderr, line)


def out(*lines: str) -> None:
    """Lines of the result."""
    for line in lines:
        write(sys.stdout, line)


def out_json(value: object) -> None:
    """The result for a machine: one JSON document."""
    write(sys.stdout, as_json(value, _as_json, sys.stdout.encoding))


def show(console: Console, text: Text) -> None:
    """A coloured line on a terminal."""
    console.print(_cleaned(text), crop=False, soft_wrap=True)


def redraw(live: Live, lines: Iterable[Text]) -> None:
    """The lines of a screen, in place of those before."""
    live.update(Group(*map(_cleaned, lines)), refresh=True)


def _cleaned(text: Text) -> Text:
    text.plain = printable(text.plain)
    return text


def out_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns: numbers to the right, None as a dash."""
    for line in aligned(heads, rows):
        out(line)


def aligned(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    width: int | None = None,
    yielding: int = -1,
) -> list[str]:
    """The lines of a table, of at most `width` cells: the `yielding` column is cut for that."""
    cells = [[_as_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(heads))]
    widths = [max(cell_len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    gap = "  "
    if width is not None:
        if sum(widths) + len(gap) * (len(widths) - 1) > width:
            gap = " "
        others = sum(widths) - widths[yielding] + len(gap) * (len(widths) - 1)
        widths[yielding] = min(widths[yielding], max(width - others, LEAST_OF_A_COLUMN))
    lines = [
        gap.join(_padded(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip()
        for line in [heads, *cells]
    ]
    return lines if width is None else [cut(line, width) for line in lines]


def _padded(cell: str, width: int, right: bool) -> str:
    cell = cut(cell, width)
    return " " * (width - cell_len(cell)) + cell if right else set_cell_size(cell, width)


def report(problem: WorkerError) -> None:
    """Print one line with the cause of an error and one line with its hint."""
    say(f"error: {' '.join(problem.cause.split())}")
    if problem.hint:
        say(f"hint: {' '.join(problem.hint.split())}")


def name_of(watched: Target | TargetStatus | Failure | ListedJob) -> str:
    """A watched column as people write it: `table.column`."""
    return printable(f"{watched.table_name}.{watched.embedding_column}")


def one_line(text: str, width: int) -> str:
    """The beginning of a text, on one line of at most `width` cells of a terminal."""
    return cut(printable(" ".join(text.split())), width)


def cut(text: str, width: int) -> str:
    """The beginning of a text that is wider than `width` cells."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes; False if nobody is there."""
    if not sys.stdin.isatty():
        return False
    write(sys.stderr, f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def dollars(cost: float | None) -> str:
    """An amount of US dollars, to a hundredth of a cent."""
    if cost is None:
        return "not known"
    if not cost:
        return "$0"
    return "<$0.0001" if cost < 0.0001 else f"${cost:.4f}"


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 row`, `2 rows`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def rounded_down(percent: float) -> float:
    """A percentage to one decimal: 100 only if it is 100, whatever is lost in binary fractions."""
    return math.floor(percent * 10 + 1e-9) / 10 if percent < 100 else 100.0


def block_bar(percent: float, width: int) -> str:
    """A bar of block characters: full at 100, and only then."""
    full, rest = divmod(int(percent / 100 * width * 8), 8)
    return ("█" * full + EIGHTHS[rest].strip()).ljust(width, "░")


def _as_cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"<?\$?\d+(\.\d+)?(%| s| min| h)?", cell) is not None


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
