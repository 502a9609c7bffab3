"""Word documents: headings, paragraphs, lists, tables, text boxes and notes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docx import Document
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml import parse_xml
from docx.oxml.ns import qn

from worker.files.parsing.archives import check_office_xml, office_properties, open_archive
from worker.files.parsing.markdown import Markdown, one_line
from worker.files.parsing.source import Extracted, Source

PARAGRAPH, TABLE, TEXT_BOX = qn("w:p"), qn("w:tbl"), qn("w:txbxContent")
ROW, CELL = qn("w:tr"), qn("w:tc")
TEXT = (qn("w:t"), qn("m:t"))  # of Word, and in formulas
DELETED = (qn("w:del"), qn("w:moveFrom"))
# The copy of a drawing for programs that cannot show it.
COPY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
IN_TEXT = {
    qn("w:tab"): "\t",
    qn("w:br"): "\n",
    qn("w:cr"): "\n",
    qn("w:noBreakHyphen"): "-",
}
HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
NOTES = (RELATIONSHIP_TYPE.FOOTNOTES, RELATIONSHIP_TYPE.ENDNOTES)
DEEPEST = 9  # styles that a style may be based on


def read(source: Source) -> Extracted:
    """Return the text of a document as it reads with all changes accepted."""
    with open_archive(source.path) as archive:
        check_office_xml(archive)
        title, author = office_properties(archive)
    document = Document(str(source.path))
    writer = _Writer(Markdown(source.options), _heading_levels(document))
    writer.write(document.element.body)
    for related in document.part.rels.values():
        if related.reltype in NOTES and not related.is_external:
            writer.write(parse_xml(related.target_part.blob))
    return Extracted(writer.markdown.content(), title, author)


def _heading_levels(document: Any) -> dict[str, int]:
    """Return the level of each style of headings, by its ID."""
    styles = {style.get(qn("w:styleId")): style for style in document.styles.element.style_lst}
    levels = {identity: _level_of(style, styles) for identity, style in styles.items()}
    return {identity: level for identity, level in levels.items() if level}


def _level_of(style: Any, styles: dict[str, Any]) -> int:
    for _ in range(DEEPEST):
        name = str(style.name_val or "")
        if found := HEADING.match(name):
            return int(found[1])
        if name.lower() == "title":
            return 1
        base = style.find(qn("w:basedOn"))
        style = styles.get(base.get(qn("w:val"))) if base is not None else None
        if style is None:
            break
    return 0


class _Writer:
    """Writes the elements of a document as Markdown."""

    def __init__(self, markdown: Markdown, levels: dict[str, int]) -> None:
        self.markdown = markdown
        self._levels = levels

    def write(self, element: Any) -> None:
        """Write the paragraphs and tables in an element, however deep they are in others."""
        for child in element:
            if child.tag == PARAGRAPH:
                self._write_paragraph(child)
            elif child.tag == TABLE:
                self._write_table(child)
            elif child.tag not in DELETED and child.tag != COPY:
                self.write(child)

    def _write_paragraph(self, paragraph: Any) -> None:
        text = "".join(_texts(paragraph)).strip()
        properties = paragraph.find(qn("w:pPr"))
        style = properties.find(qn("w:pStyle")) if properties is not None else None
        level = self._levels.get(style.get(qn("w:val"))) if style is not None else None
        in_list = properties is not None and properties.find(qn("w:numPr")) is not None
        if level:
            self.markdown.heading(level, text)
        elif in_list and text:
            self.markdown.item("-", text)
        else:
            self.markdown.text(text)
        for box in _text_boxes(paragraph):
            self.write(box)

    def _write_table(self, table: Any) -> None:
        rows = [list(row.iter(CELL)) for row in table.iter(ROW)]
        has_columns = any(len(row) > 1 for row in rows)
        if not has_columns or any(True for _ in table.iterdescendants(TABLE)):
            self.write(table)  # it only lays out the page
        else:
            self.markdown.table([_cell_text(cell) for cell in row] for row in rows)


def _cell_text(cell: Any) -> str:
    return one_line(" ".join("".join(_texts(each)) for each in cell.iter(PARAGRAPH)))


def _texts(element: Any) -> Iterator[str]:
    """Yield the text of a paragraph, without that of its text boxes."""
    for child in element:
        if child.tag in TEXT:
            yield child.text or ""
        elif child.tag in IN_TEXT:
            yield IN_TEXT[child.tag]
        elif child.tag not in DELETED and child.tag not in (COPY, TEXT_BOX):
            yield from _texts(child)


def _text_boxes(element: Any) -> Iterator[Any]:
    for child in element:
        if child.tag == TEXT_BOX:
            yield child
        elif child.tag not in DELETED and child.tag != COPY:
            yield from _text_boxes(child)
