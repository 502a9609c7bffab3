"""Documents as the engine takes them: their chunks with the exact strings that a model gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice

from worker.chunking.options import SplitOptions
from worker.chunking.splitter import SPLITTER_VERSION, split
from worker.queue import Chunking, Place

END_OF_CONTEXT = "\x1f"  # between what is put before each chunk of a document and its text


@dataclass(slots=True)
class SplitDocument:
    """A text, the places of its chunks, and its `title`, which is put before each of them."""

    title: str
    text: str
    places: list[Place] = field(default_factory=list)

    def chunk_at(self, place: Place) -> tuple[str | None, str]:
        """Return what is put before a chunk, if anything is, and the part of the text.

        A model gets one after the other: the title, the headings, a blank line, and the chunk.
        """
        lines = [line for line in (self.title, place.heading_path) if line]
        context = "\n".join(lines) + "\n\n" if lines else None
        return context, self.text[place.first_char : place.last_char]


def split_document(
    content: str, chunking: Chunking, count_tokens: Callable[[str], int]
) -> SplitDocument:
    """Split the content of a job. A document with more chunks than it may have gets one too many.

    A chunk of only white space has no place, since it needs no vector.
    """
    before, separator, after = content.partition(END_OF_CONTEXT)
    title, text = (before, after) if separator else ("", before)
    del content, before, after  # from here on, a long text is held once
    options = SplitOptions(
        format=chunking.format,
        chunk_size=chunking.size,
        chunk_unit=chunking.unit,
        count_tokens=count_tokens,
    )
    document = SplitDocument(title, text)
    visible = (chunk for chunk in split(text, options) if not chunk.blank)
    for chunk in islice(visible, chunking.most + 1):
        place = Place(
            b"", chunk.first_char, chunk.last_char, chunk.page, chunk.heading_path or None
        )
        document.places.append(replace(place, hash=_hash_of(*document.chunk_at(place))))
    return document


def _hash_of(context: str | None, content: str) -> bytes:
    """Return the hash of a chunk: by everything that a model gets for it."""
    hashed = sha256(b"%d\n" % SPLITTER_VERSION)
    hashed.update(f"{context or ''}{content}".encode("utf-8", "surrogatepass"))
    return hashed.digest()
