"""Which format a file has: by its content, and where that does not tell, by the end of its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from worker.files.parsing.archives import open_archive
from worker.files.parsing.languages import LANGUAGES
from worker.files.parsing.results import failure
from worker.files.parsing.source import Source


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its type, the module of `formats` that reads it, and the ends of names."""

    mime: str
    module: str
    suffixes: tuple[str, ...] = ()


OFFICE = "application/vnd.openxmlformats-officedocument"
FORMATS: Mapping[str, Format] = {
    "pdf": Format("application/pdf", "pdf"),
    "docx": Format(f"{OFFICE}.wordprocessingml.document", "docx"),
    "pptx": Format(f"{OFFICE}.presentationml.presentation", "pptx"),
    "xlsx": Format(f"{OFFICE}.spreadsheetml.sheet", "xlsx"),
    "epub": Format("application/epub+zip", "epub"),
    "html": Format("text/html", "html", ("html", "htm", "xhtml")),
    "eml": Format("message/rfc822", "eml", ("eml",)),
    "csv": Format("text/csv", "csv", ("csv",)),
    "tsv": Format("text/tab-separated-values", "csv", ("tsv", "tab")),
    "json": Format("application/json", "json", ("json", "geojson", "ipynb")),
    "jsonl": Format("application/jsonl", "json", ("jsonl", "ndjson")),
    "md": Format("text/markdown", "text", ("md", "markdown")),
    "rst": Format("text/x-rst", "text", ("rst",)),
    "code": Format("text/x-code", "code", tuple(LANGUAGES)),
    "txt": Format("text/plain", "text", ("txt", "text", "log")),
}
BY_SUFFIX = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # Office until 2003, and encrypted files of later ones
ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
PDF = b"%PDF-"
PDF_MAY_BEGIN = 1024  # bytes after the beginning of a file
RTF = b"{\\rtf"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
MAIN_PARTS = {
    "docx": b"wordprocessingml.document.main+xml",
    "pptx": b"presentationml.presentation.main+xml",
    "xlsx": b"spreadsheetml.sheet.main+xml",
}
MOST_TYPES = 2**20  # bytes of the list of parts
HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<\?xml[^>]*>|<!--(?:(?!-->).)*-->)*<(?:!doctype\s+html|html)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
MAIL = re.compile(rb"(?i)(?:Return-Path|Received|Delivered-To|MIME-Version|Message-ID):")
FROM = re.compile(rb"(?im)^From:")


def detect(source: Source) -> str:
    """Return the name of the format. Raises ParseFailure if there is no parser for it."""
    head = source.head()
    if head.lstrip().startswith(PDF) or (
        source.suffix == "pdf" and PDF in head[: PDF_MAY_BEGIN + len(PDF)]
    ):
        return "pdf"
    if head.startswith(ZIP):
        return _detect_archive(source)
    if head.startswith(OLE):
        raise _old_office(source)
    if head.startswith(RTF):
        raise failure("unsupported", "it is an RTF file", "Save it as DOCX.")
    named = BY_SUFFIX.get(source.suffix)
    if named in (None, "txt"):
        if HTML.match(head):
            return "html"
        if MAIL.match(head) and FROM.search(head):
            return "eml"
    return named or "txt"


def _detect_archive(source: Source) -> str:
    with open_archive(source.path) as archive:
        names = set(archive.namelist())
        if "[Content_Types].xml" in names:
            with archive.open("[Content_Types].xml") as part:
                types = part.read(MOST_TYPES)
            for name, main_part in MAIN_PARTS.items():
                if main_part in types:
                    return name
            raise failure(
                "unsupported",
                "it is an Office file of a kind that is not supported, such as one with macros",
                "Save it as DOCX, PPTX or XLSX.",
            )
        if "META-INF/container.xml" in names and "mimetype" in names:
            with archive.open("mimetype") as part:
                if part.read(100).strip() == b"application/epub+zip":
                    return "epub"
    raise failure("unsupported", "it is an archive", "Unpack it.")


def _old_office(source: Source) -> Exception:
    with source.path.open("rb") as file:
        while block := file.read(2**20):
            if ENCRYPTED_PACKAGE in block:
                return failure("encrypted", "it is protected by a password")
            if len(block) == 2**20:
                file.seek(-len(ENCRYPTED_PACKAGE), 1)
    return failure(
        "unsupported",
        "it is a file of Office 2003 or older, or an Outlook message",
        "Save it as DOCX, PPTX, XLSX or EML.",
    )
