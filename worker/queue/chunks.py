"""Chunks: the parts of documents that are embedded one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Self

from worker.queue.enhancement import Enhanced
from worker.queue.jobs import Job


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is in its document, and the hash of its text.

    The characters from `first_char` (counted from 0) to `last_char`, which is not included.
    """

    hash: bytes
    first_char: int
    last_char: int
    page: int | None
    heading_path: str | None


BLANK_LINE = "\n\n"  # between the context of a chunk and its text
_OF_JOBS = [each.name for each in fields(Job)]


@dataclass(frozen=True, slots=True)
class ChunkText:
    """The text of a chunk, and what a model gets before it, which ends with a blank line.

    `data`: what a chat model gets to write more of that; `plain_hash`: the hash of the chunk
    without it. None: no chat model writes.
    """

    context: str | None
    content: str
    data: str | None = None
    plain_hash: bytes | None = None


@dataclass(slots=True, kw_only=True)
class Chunk(Job):
    """A chunk of a document: what a job is for a model.

    It has the id and the lease of its document. `content` is what the model gets: the context, if
    there is any, and the part of the text at `place`.
    """

    place: Place
    plain_context: str | None
    """The context without what a chat model wrote."""
    data: str | None = None
    _plain_hash: bytes | None = None

    @classmethod
    def of(cls, document: Job, place: Place, text: ChunkText) -> Self:
        """Return the chunk at a place of a document."""
        shared = {name: getattr(document, name) for name in _OF_JOBS}
        shared |= {"content": (text.context or "") + text.content, "content_hash": place.hash}
        return cls(
            **shared,
            place=place,
            plain_context=text.context,
            data=text.data,
            _plain_hash=text.plain_hash,
        )

    @property
    def own_content(self) -> str:
        """The part of the text, without the context."""
        return self.content[len(self.context or "") :]

    @property
    def context(self) -> str | None:
        """What a model gets before the part of the text."""
        written = self.enhanced and self.enhanced.text
        if not written:
            return self.plain_context
        lines = [self.plain_context.removesuffix(BLANK_LINE)] if self.plain_context else []
        return "\n".join([*lines, written]) + BLANK_LINE

    @property
    def size(self) -> int:
        """The characters of its text, and of its context without what a chat model wrote."""
        return len(self.plain_context or "") + self.place.last_char - self.place.first_char

    @property
    def plain_hash(self) -> bytes:
        return self._plain_hash or self.content_hash

    @property
    def stored_hash(self) -> bytes:
        """The hash under which its vector is stored."""
        return self.plain_hash if self.enhanced and self.enhanced.failure else self.content_hash

    def with_enhancement(self, enhanced: Enhanced) -> Self:
        """Return the chunk with what a chat model wrote for it, which is part of its context."""
        chunk = replace(self, enhanced=enhanced)
        chunk.content = (chunk.context or "") + self.own_content
        return chunk


@dataclass(frozen=True, slots=True)
class DocumentCompletion:
    """The places of the chunks of a document, in the order of its text. All of them are stored.

    `embedded`: for how many of them a vector was made now, with these `tokens` and this `cost`;
    None: not known. `unenhanced` and `again_in` as in a Completion.
    """

    job: Job
    places: Sequence[Place]
    embedded: int
    tokens: int | None
    cost: float | None
    unenhanced: str | None = None
    again_in: timedelta | None = None
