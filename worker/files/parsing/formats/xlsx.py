"""Excel workbooks: a page a sheet, with the values that its formulas had when it was saved."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import chain
from typing import Any

from python_calamine import CalamineWorkbook, SheetTypeEnum

from worker.files.parsing.archives import check_office_xml, office_properties, open_archive
from worker.files.parsing.formats.csv import write_table
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.source import Extracted, Source

EXACT = 1e15  # below it, a whole number is shown with all its digits


def read(source: Source) -> Extracted:
    """Return the rows of all sheets, as tables."""
    with open_archive(source.path) as archive:
        check_office_xml(archive)
        title, author = office_properties(archive)
    markdown = Markdown(source.options)
    workbook = CalamineWorkbook.from_path(source.path)
    for sheet in workbook.sheets_metadata:
        if sheet.typ == SheetTypeEnum.WorkSheet:
            markdown.page()
            _write_sheet(markdown, sheet.name, _rows(workbook, sheet.name))
    return Extracted(markdown.content(), title, author, pages=markdown.pages)


def _write_sheet(markdown: Markdown, name: str, rows: Iterator[list[str]]) -> None:
    first = next(rows, None)
    if first:
        markdown.heading(1, name)
        write_table(markdown, 2, chain([first], rows))


def _rows(workbook: CalamineWorkbook, name: str) -> Iterator[list[str]]:
    """Yield the rows that have values, without the empty cells at their ends."""
    for values in workbook.get_sheet_by_name(name).iter_rows():
        row = [_shown(value) for value in values]
        while row and not row[-1]:
            row.pop()
        if row:
            yield row


def _shown(value: Any) -> str:
    match value:
        case bool():
            return str(value).upper()
        case float() if value.is_integer() and abs(value) < EXACT:
            return str(int(value))
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case datetime():
            return value.isoformat(" ", "seconds")
        case date() | time():
            return value.isoformat()
        case _:
            return str(value)
