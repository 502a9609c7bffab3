"""Files for the tests of parsers: good ones, and ones that break naive parsers."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

MB = 2**20  # bytes


def pdf(*pages: str, title: str = "", author: str = "") -> bytes:
    """A PDF with the text of each page, whose lines are separated by line feeds."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{_references(4, len(pages))}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, _ in enumerate(pages):
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font"
            f" << /F 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        lines = "".join(f"({line}) Tj 0 -15 Td " for line in pages[number].split("\n"))
        drawn = f"BT /F 12 Tf 50 750 Td {lines}ET" if pages[number] else "10 10 100 100 re f"
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    objects.append(f"<< /Title ({title}) /Author ({author}) >>")
    return _pdf_of(objects)


def _references(first: int, pages: int) -> str:
    return " ".join(f"{first + 2 * number} 0 R" for number in range(pages))


def _pdf_of(objects: list[str]) -> bytes:
    """The objects in a file. The first is the catalog, the last one the metadata."""
    body = b"%PDF-1.4\n"
    offsets = []
    for number, each in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        body
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R"
            f" /Info {len(objects)} 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
        ).encode()
    )


def protected_pdf(text: str, user: str, owner: str) -> bytes:
    """A PDF with a password to open it, which may be empty, and one to change it."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf(text))))
    writer.encrypt(user, owner, algorithm="RC4-128")
    written = BytesIO()
    writer.write(written)
    return written.getvalue()


def archive(entries: dict[str, str | bytes]) -> bytes:
    """A ZIP archive."""
    written = BytesIO()
    with ZipFile(written, "w", ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return written.getvalue()


MAIN_PARTS = {
    "word/document.xml": "wordprocessingml.document",
    "ppt/presentation.xml": "presentationml.presentation",
    "xl/workbook.xml": "spreadsheetml.sheet",
}
TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def office(main_part: str, content: str | bytes, **others: str | bytes) -> dict[str, str | bytes]:
    """The entries of an Office file with this main part."""
    mime = f"application/vnd.openxmlformats-officedocument.{MAIN_PARTS[main_part]}.main+xml"
    types = (
        f'<Types xmlns="{TYPES}"><Default Extension="xml" ContentType="application/xml"/><Default'
        ' Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/{main_part}" ContentType="{mime}"/></Types>'
    )
    relationships = (
        f'<Relationships xmlns="{RELATIONSHIPS}"><Relationship Id="r1"'
        f' Type="{OFFICE}/officeDocument" Target="{main_part}"/></Relationships>'
    )
    entries: dict[str, str | bytes] = {"[Content_Types].xml": types, "_rels/.rels": relationships}
    return entries | {main_part: content} | others


def word(body: str, declaration: str = "") -> dict[str, str | bytes]:
    """The entries of a Word document with the XML of its body, in which `w:` is the namespace."""
    xml = f'{declaration}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    return office("word/document.xml", xml)


def paragraph(text: str) -> str:
    """A paragraph of Word."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def bomb(main_part: str, unpacked: int, declared: int | None = None) -> bytes:
    """An Office file whose main part unpacks to so many bytes, a thousand times its size.

    `declared` is the size that the archive names.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabyte = packer.compress(b" " * MB) + packer.flush(zlib.Z_FULL_FLUSH)
    data = megabyte * (unpacked // MB) + packer.flush()
    entries = office(main_part, "")
    del entries[main_part]
    return _with_entry(archive(entries), main_part, data, declared or unpacked)


def _with_entry(zipped: bytes, name: str, packed: bytes, size: int) -> bytes:
    """An archive with one more entry, whose packed bytes are given."""
    end = zipped.rindex(b"PK\x05\x06")
    count, length, first = struct.unpack("<HII", zipped[end + 10 : end + 20])
    common = struct.pack("<HHHHHIII", 20, 0, 8, 0, 33, 0, len(packed), size)
    common += struct.pack("<HH", len(name), 0)
    local = b"PK\x03\x04" + common + name.encode() + packed
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + common
    entry += struct.pack("<HHHII", 0, 0, 0, 0, first) + name.encode()
    counts = struct.pack("<HHHHIIH", 0, 0, count + 1, count + 1, length + len(entry), 0, 0)
    counts = counts[:12] + struct.pack("<IH", first + len(local), 0)
    return zipped[:first] + local + zipped[first:end] + entry + b"PK\x05\x06" + counts


def book(chapters: dict[str, str], **others: str) -> dict[str, str | bytes]:
    """The entries of an EPUB with these chapters, by their names, in the order of reading."""
    items = "".join(
        f'<item id="{name}" href="{name}" media-type="application/xhtml+xml"/>'
        for name in sorted(chapters)
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A Book</dc:title><dc:creator>Ann'
        f"</dc:creator></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile'
        ' full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    entries: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": container,
        "OEBPS/book.opf": package,
    }
    return entries | {f"OEBPS/{name}": text for name, text in chapters.items()} | others


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file, and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
