"""Electronic books, in the order in which they are read."""

from __future__ import annotations

from posixpath import dirname, join, normpath
from urllib.parse import unquote
from xml.etree import ElementTree
from zipfile import ZipFile

from worker.files.parsing.archives import DUBLIN_CORE, ENTITY, open_archive
from worker.files.parsing.decoding import declared_encoding, decode
from worker.files.parsing.formats.html import write_html
from worker.files.parsing.markdown import Markdown
from worker.files.parsing.results import failure
from worker.files.parsing.source import Extracted, Source

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"


def read(source: Source) -> Extracted:
    """Return the text of all chapters."""
    markdown = Markdown(source.options)
    with open_archive(source.path) as archive:
        package = _xml(archive, CONTAINER).find(".//{*}rootfile")
        name = package.get("full-path", "") if package is not None else ""
        book = _xml(archive, name)
        encrypted = _encrypted(archive)
        for chapter in _chapters(book, dirname(name)):
            if chapter in encrypted:
                raise failure("encrypted", "its chapters are encrypted (DRM)")
            data = _bytes(archive, chapter)
            declared = declared_encoding(data)
            write_html(markdown, decode(data, source.options.fallback_encoding, declared).text)
    return Extracted(
        markdown.content(),
        title=book.findtext(f".//{DUBLIN_CORE}title"),
        author=book.findtext(f".//{DUBLIN_CORE}creator"),
    )


def _chapters(book: ElementTree.Element, folder: str) -> list[str]:
    """Return the names of the entries with the chapters, in order."""
    items = {item.get("id"): item for item in book.findall(".//{*}manifest/{*}item")}
    spine = [items.get(each.get("idref")) for each in book.findall(".//{*}spine/{*}itemref")]
    return [
        normpath(join(folder, unquote(item.get("href", ""))))
        for item in spine
        if item is not None and "html" in item.get("media-type", "")
    ]


def _encrypted(archive: ZipFile) -> set[str]:
    """Return the names of the entries that are encrypted. Often these are only fonts."""
    if ENCRYPTION not in archive.namelist():
        return set()
    references = _xml(archive, ENCRYPTION).iter(
        "{http://www.w3.org/2001/04/xmlenc#}CipherReference"
    )
    return {unquote(reference.get("URI", "")) for reference in references}


def _xml(archive: ZipFile, name: str) -> ElementTree.Element:
    data = _bytes(archive, name)
    if ENTITY in data.replace(b"\0", b""):
        raise failure("damaged", "its XML declares entities")
    return ElementTree.fromstring(data)


def _bytes(archive: ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise failure("damaged", "a part of the book is missing") from None
