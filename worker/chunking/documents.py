"""Documents as the engine takes them: their chunks with the exact strings that a model gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from json import dumps

from worker.chunking.options import SplitOptions
from worker.chunking.splitter import SPLITTER_VERSION, split
from worker.queue import BLANK_LINE, Chunking, ChunkText, Enhancement, Place, enhancement_key

NEAR = 400  # characters before and after a chunk that a chat model gets
END_OF_CONTEXT = "\x1f"  # between what is put before each chunk of a document and its text


@dataclass(slots=True)
class SplitDocument:
    """A text, the places of its chunks, and its `title`, which is put before each of them.

    With an `enhancement`, a chat model writes more to put before each.
    """

    title: str
    text: str
    enhancement: Enhancement | None = None
    places: list[Place] = field(default_factory=list)

    def chunk_at(self, place: Place) -> ChunkText:
        """Return a chunk. A model gets one after the other: the title, the headings, a blank line,
        and the part of the text."""
        lines = [line for line in (self.title, place.heading_path) if line]
        context = "\n".join(lines) + BLANK_LINE if lines else None
        content = self.text[place.first_char : place.last_char]
        if not self.enhancement:
            return ChunkText(context, content)
        return ChunkText(context, content, self._data(place), _hash_of(context, content))

    def hash_at(self, place: Place) -> bytes:
        """Return the hash of a chunk: by everything that the models get for it."""
        chunk = self.chunk_at(place)
        if not (self.enhancement and chunk.plain_hash):
            return _hash_of(chunk.context, chunk.content)
        asked = (self.enhancement.model, self.enhancement.prompt, chunk.data or "")
        return sha256(chunk.plain_hash + enhancement_key(*asked)).digest()

    def _data(self, place: Place) -> str:
        """Return what a chat model gets: the chunk and what is near it, so that an edit elsewhere
        changes nothing."""
        first, last = place.first_char, place.last_char
        data = {
            "title": self.title,
            "headings": place.heading_path or "",
            "before": self.text[max(0, first - NEAR) : first],
            "passage": self.text[first:last],
            "after": self.text[last : last + NEAR],
        }
        return dumps({name: value for name, value in data.items() if value}, ensure_ascii=False)


def split_document(
    content: str,
    chunking: Chunking,
    count_tokens: Callable[[str], int],
    enhancement: Enhancement | None = None,
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
    document = SplitDocument(title, text, enhancement)
    visible = (chunk for chunk in split(text, options) if not chunk.blank)
    for chunk in islice(visible, chunking.most + 1):
        place = Place(
            b"", chunk.first_char, chunk.last_char, chunk.page, chunk.heading_path or None
        )
        document.places.append(replace(place, hash=document.hash_at(place)))
    return document


def _hash_of(context: str | None, content: str) -> bytes:
    """Return the hash of a chunk by what an embedding model gets for it."""
    hashed = sha256(b"%d\n" % SPLITTER_VERSION)
    hashed.update(f"{context or ''}{content}".encode("utf-8", "surrogatepass"))
    return hashed.digest()
