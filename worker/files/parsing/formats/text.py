"""Plain text, Markdown and reStructuredText, which are kept as they are."""

from __future__ import annotations

import re

from worker.files.parsing.source import Extracted, Source

TITLE = re.compile(
    r"(?:\s*\n)?(?:---[ \t]*\n(?:(?!---)[^\n]*\n){0,100}?title:[ \t]*|#[ \t]+)(?P<title>[^\n]+)"
)


def read(source: Source) -> Extracted:
    """Return the text. A form feed in it ends a page, as it does in RFCs."""
    text, encoding = source.text()
    pages = text.rstrip().count("\f") + 1 if "\f" in text else None
    title = TITLE.match(text) if source.suffix in ("md", "markdown") else None
    return Extracted(
        text,
        title=title["title"].strip("#\"' \t") if title else None,
        pages=pages,
        encoding=encoding,
    )
