"""PowerPoint presentations: a page a slide, with its tables and the notes of the speaker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pptx import Presentation

from worker.files.parsing.archives import check_office_xml, office_properties, open_archive
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.source import Extracted, Source


def read(source: Source) -> Extracted:
    """Return the text of all slides."""
    with open_archive(source.path) as archive:
        check_office_xml(archive)
        title, author = office_properties(archive)
    markdown = Markdown(source.options)
    for slide in Presentation(str(source.path)).slides:
        markdown.page()
        _write_slide(markdown, slide)
    return Extracted(markdown.content(), title, author, pages=markdown.pages)


def _write_slide(markdown: Markdown, slide: Any) -> None:
    title = slide.shapes.title
    if title is not None:
        markdown.heading(1, title.text_frame.text)
    written = title.element if title is not None else None
    _write_shapes(markdown, (shape for shape in slide.shapes if shape.element is not written))
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = _text(slide.notes_slide.notes_text_frame)
        if notes:
            markdown.heading(2, "Notes")
            markdown.text(notes)


def _write_shapes(markdown: Markdown, shapes: Iterable[Any]) -> None:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            _write_shapes(markdown, shape.shapes)
        elif shape.has_text_frame:
            markdown.text(_text(shape.text_frame))
        elif getattr(shape, "has_table", False):
            markdown.table([cell.text for cell in row.cells] for row in shape.table.rows)


def _text(frame: Any) -> str:
    return str(frame.text).replace("\v", "\n").strip()
