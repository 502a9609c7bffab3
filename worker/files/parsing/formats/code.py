"""Source code, as a fenced block of Markdown."""

from __future__ import annotations

from worker.files.parsing.decoding import declared_encoding, decode
from worker.files.parsing.languages import LANGUAGES
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.source import Extracted, Source


def read(source: Source) -> Extracted:
    """Return the code of a file."""
    data = source.data()
    language = LANGUAGES[source.suffix]
    declared = declared_encoding(data) if language == "xml" else None
    text, encoding = decode(data, source.options.fallback_encoding, declared)
    markdown = Markdown(source.options)
    markdown.code(text, language)
    return Extracted(markdown.content(), encoding=encoding)
