"""PDF, page by page."""

from __future__ import annotations

import re
from contextlib import closing

import pypdfium2
from pypdfium2 import raw

from worker.errors import ParseFailure
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.results import failure
from worker.files.parsing.source import Extracted, Source

END = 65_536  # bytes, in which the end of a complete file is looked for
# How pdfium shows a hyphen at the end of a line.
BROKEN_WORD = re.compile("[\x02\xad\ufffe]\n[ \t]*")


def read(source: Source) -> Extracted:
    """Return the text of all pages. A file that needs no password to be read is read."""
    _check_end(source)
    try:
        with closing(pypdfium2.PdfDocument(source.path)) as document:
            markdown = Markdown(source.options)
            for number in range(len(document)):
                markdown.page()
                markdown.text(_page_text(document, number))
            properties = document.get_metadata_dict()
    except pypdfium2.PdfiumError as error:
        raise _failure(error) from None
    if not markdown.content().strip():
        raise failure("no_text", "none of its pages has text, so it may be a scan")
    return Extracted(
        markdown.content(),
        title=properties.get("Title"),
        author=properties.get("Author"),
        pages=markdown.pages,
    )


def _check_end(source: Source) -> None:
    """Raise ParseFailure if the end of the file is missing: pdfium would read what is left."""
    with source.path.open("rb") as file:
        file.seek(max(0, source.path.stat().st_size - END))
        end = file.read()
    if b"%%EOF" not in end and b"startxref" not in end:
        raise failure("damaged", "it is cut off: its end is missing")


def _page_text(document: pypdfium2.PdfDocument, number: int) -> str:
    with closing(document[number]) as page, closing(page.get_textpage()) as text:
        return BROKEN_WORD.sub("", text.get_text_range().replace("\r\n", "\n"))


def _failure(error: pypdfium2.PdfiumError) -> ParseFailure:
    if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
        return failure("encrypted", "it is protected by a password")
    return failure("damaged", "it is no PDF that can be read")
