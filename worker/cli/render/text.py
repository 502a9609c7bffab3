"""Names, numbers and texts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.cells import cell_len, set_cell_size

from worker.durations import format_duration
from worker.queue import Batch, BatchBackfill, Check, Failure, ListedJob, Target, TargetStatus
from worker.terminal import printable

NOTHING_WATCHED = "Nothing is watched yet. `worker watch TABLE --source COLUMN --column EMBEDDING`"

EIGHTHS = " ▏▎▍▌▋▊▉█"


Watched = Target | TargetStatus | Failure | ListedJob | Check | Batch | BatchBackfill


def name_of(watched: Watched) -> str:
    """A watched column as people write it: `table.column`."""
    return printable(f"{watched.table_name}.{watched.embedding_column}")


def one_line(text: str, width: int) -> str:
    """The beginning of a text, on one line of at most `width` cells of a terminal."""
    return cut(printable(" ".join(text.split())), width)


def cut(text: str, width: int) -> str:
    """The beginning of a text that is wider than `width` cells."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def ago(when: datetime) -> str:
    """How long ago a time was."""
    return f"{format_duration((datetime.now(UTC) - when).total_seconds())} ago"


def block_bar(percent: float, width: int) -> str:
    """A bar of block characters: full only at 100."""
    full, rest = divmod(int(percent / 100 * width * 8), 8)
    return ("█" * full + EIGHTHS[rest].strip()).ljust(width, "░")
