"""Tables as text, with commas, semicolons or tabs between the cells."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import chain

from worker.files.parsing.markdown import Markdown, one_line
from worker.files.parsing.source import Extracted, Source, too_long

SEPARATORS = ",;\t|"
LONGEST_HEAD = 2**16  # characters, in which the separator is looked for


def read(source: Source) -> Extracted:
    """Return the rows as a table, below a heading with the names of its columns, so that each
    passage of the table has them."""
    text, encoding = source.text()
    markdown = Markdown(source.options)
    csv.field_size_limit(source.options.most_characters)
    try:
        write_table(markdown, 1, _rows(text))
    except csv.Error:
        raise too_long(source.options.most_characters) from None  # in one cell
    return Extracted(markdown.content(), encoding=encoding)


def write_table(markdown: Markdown, level: int, rows: Iterator[Sequence[str]]) -> None:
    """Write the rows as a table, below a heading with the names of its columns."""
    head = next((row for row in rows if any(cell.strip() for cell in row)), ())
    markdown.heading(level, ", ".join(name for name in map(one_line, head) if name))
    markdown.table(chain([head], rows))


def _rows(text: str) -> Iterator[list[str]]:
    return csv.reader(StringIO(text, newline=""), delimiter=_separator(text))


def _separator(text: str) -> str:
    """Return the separator that makes the most cells of the first line; a comma if all make one."""
    first_line = text[:LONGEST_HEAD].lstrip().partition("\n")[0]
    cells = {each: len(next(csv.reader([first_line], delimiter=each), ())) for each in SEPARATORS}
    return max(SEPARATORS, key=cells.__getitem__)
