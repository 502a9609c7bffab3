"""Aligned columns."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size

from worker.cli.console import out
from worker.cli.render.text import cut
from worker.terminal import printable

LEAST_OF_A_COLUMN = 8  # cells


def out_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns: numbers to the right, None as a dash."""
    for line in aligned(heads, rows):
        out(line)


def aligned(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    width: int | None = None,
    yielding: int = -1,
) -> list[str]:
    """Return the lines of a table. If they exceed `width` cells, the `yielding` column is cut."""
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


def terminal_width() -> int | None:
    """Return the width of the terminal; None: the lines go elsewhere, and are not cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _padded(cell: str, width: int, right: bool) -> str:
    cell = cut(cell, width)
    return " " * (width - cell_len(cell)) + cell if right else set_cell_size(cell, width)


def _as_cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"<?\$?\d+(\.\d+)?(%| s| min| h)?", cell) is not None
