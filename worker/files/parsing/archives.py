"""Files that are ZIP archives: DOCX, PPTX, XLSX and EPUB. Nothing is ever unpacked to the disk.

An archive may lie about the size of an entry. But zipfile unpacks no more than that, and then finds
that the checksum is wrong.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

from worker.files.parsing.options import MB
from worker.files.parsing.results import failure

MOST_UNPACKED = 256 * MB
MOST_ENTRIES = 10_000
MOST_RATIO = 200  # of the unpacked to the packed size, for an archive of more than SMALL
SMALL = 16 * MB
BLOCK = 2**16  # bytes; the declaration of a document type is in the first ones
IS_ENCRYPTED = 0x1  # a flag of an entry
DOCTYPE, ENTITY = b"<!DOCTYPE", b"<!ENTITY"
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


def open_archive(path: Path) -> ZipFile:
    """Open an archive. Raises ParseFailure if it is damaged, encrypted or unpacks to too much."""
    try:
        archive = ZipFile(path)
    except (BadZipFile, ValueError, OSError, NotImplementedError):
        raise failure("damaged", "its archive is cut off or damaged") from None
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_ENTRIES:
        raise failure("too_large", f"its archive has more than {MOST_ENTRIES:,} entries")
    if unpacked > MOST_UNPACKED:
        raise failure("too_large", f"it unpacks to more than {MOST_UNPACKED // MB} MB")
    if unpacked > max(SMALL, MOST_RATIO * path.stat().st_size):
        raise failure("too_large", f"it unpacks to more than {MOST_RATIO} times its size")
    if any(entry.flag_bits & IS_ENCRYPTED for entry in entries):
        raise failure("encrypted", "its archive is protected by a password")
    return archive


def check_office_xml(archive: ZipFile) -> None:
    """Raise ParseFailure if a part declares a document type, which no office program writes: its
    entities can grow without limit, or name other files.

    Raises BadZipFile if a part has another size than the archive says. So a parser that does not
    read it by zipfile unpacks no more either.
    """
    for entry in archive.infolist():
        if entry.filename.endswith((".xml", ".rels")):
            with archive.open(entry) as part:
                if DOCTYPE in part.read(BLOCK).replace(b"\0", b""):
                    raise failure("damaged", "its XML declares a document type")
                while part.read(BLOCK):
                    pass


def office_properties(archive: ZipFile) -> tuple[str | None, str | None]:
    """Return the title and the author of an Office document."""
    try:
        properties = ElementTree.fromstring(archive.read("docProps/core.xml"))
    except (KeyError, ElementTree.ParseError):
        return None, None
    return properties.findtext(f"{DUBLIN_CORE}title"), properties.findtext(f"{DUBLIN_CORE}creator")
