"""HTML: headings, paragraphs, lists, tables and code, without what is not shown."""

from __future__ import annotations

from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from worker.files.parsing.decoding import declared_encoding, decode
from worker.files.parsing.formats.elements import HtmlWriter
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.source import Extracted, Source


def read(source: Source) -> Extracted:
    """Return the text of a page."""
    data = source.data()
    text, encoding = decode(data, source.options.fallback_encoding, declared_encoding(data))
    markdown = Markdown(source.options)
    tree = write_html(markdown, text)
    title = tree.css_first("title")
    author = tree.css_first("meta[name=author i]")
    return Extracted(
        markdown.content(),
        title=title.text() if title else None,
        author=author.attributes.get("content") if author else None,
        encoding=encoding,
    )


def write_html(markdown: Markdown, html: str) -> LexborHTMLParser:
    """Write the text of HTML as Markdown, and return its tree."""
    try:
        tree = LexborHTMLParser(html)
    except SelectolaxError:  # no HTML is invalid, so there is not enough memory
        raise MemoryError from None
    if tree.body:
        HtmlWriter(markdown).write(tree.body)
    return tree
