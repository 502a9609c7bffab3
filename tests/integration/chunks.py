"""Texts in chunks as tests process them: by calls of SQL, split and embedded here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from tests.conftest import Database, rows, value
from tests.integration.tables import vector_of

MODEL = "test:model"
WATCH: LiteralString = "select watch_embeddings('docs', 'body', dimensions => 3, chunks => true)"


@dataclass(frozen=True)
class Chunk:
    """A sentence of a text. `first` and `last` as in a place."""

    content: str
    context: str
    first: int
    last: int

    @property
    def hash(self) -> bytes:
        return sha256(f"{self.context}\n{self.content}".encode()).digest()


@dataclass(frozen=True)
class Document:
    """A claimed job of a text in chunks."""

    id: int
    lease: UUID
    content_hash: bytes
    record_id: str
    content: str
    chunking: dict[str, Any]
    stored: list[bytes]

    @property
    def chunks(self) -> list[Chunk]:
        context, separator, text = self.content.partition("\x1f")
        if not separator:
            context, text = "", self.content
        return [
            Chunk(piece[0], context, piece.start(), piece.end())
            for piece in re.finditer(r".+?(?:\. |$)", text, re.DOTALL)
        ]

    @property
    def unstored(self) -> list[Chunk]:
        """Those without a vector, each once."""
        return list({one.hash: one for one in self.chunks if one.hash not in self.stored}.values())


def create_chunked(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, title text, body text, tenant integer)")
    db.execute(WATCH)


def claim(db: Database, batch: int = 100, model: str = MODEL) -> list[Document]:
    with db.cursor(row_factory=class_row(Document)) as cursor:
        return cursor.execute(
            "select id, lease, content_hash, record_id, content, chunking, stored"
            "  from claim_embeddings('test', %s, default_model => %s)"
            " where status = 'processing'",
            [batch, model],
        ).fetchall()


def claim_one(db: Database) -> Document:
    [document] = claim(db, 1)
    return document


Refusals = list[tuple[int, str]]


def stage(
    db: Database, document: Document, chunks: Sequence[Chunk] | None = None, model: str = MODEL
) -> Refusals:
    """Stage chunks of a document: all that are not stored, unless others are given."""
    chunks = document.unstored if chunks is None else chunks
    return stage_all(db, [(document, chunk) for chunk in chunks], model=model)


def stage_all(
    db: Database,
    chunks: Sequence[tuple[Document, Chunk]],
    vectors: Mapping[str, str] | None = None,
    model: str = MODEL,
) -> Refusals:
    """Stage chunks of several documents, with `vectors` by content instead of their own."""
    return rows(
        db,
        "select * from stage_chunks(%s, %s, %s, %s, %s, %s::text[]::vector[], %s)",
        [document.id for document, _ in chunks],
        [document.lease for document, _ in chunks],
        [chunk.hash for _, chunk in chunks],
        [chunk.content for _, chunk in chunks],
        [chunk.context or None for _, chunk in chunks],
        [(vectors or {}).get(chunk.content, str(vector_of(chunk.content))) for _, chunk in chunks],
        model,
    )


def complete(db: Database, *documents: Document, model: str = MODEL) -> Refusals:
    places = [(document.id, chunk) for document in documents for chunk in document.chunks]
    return rows(
        db,
        "select * from complete_documents(%s, %s, %s, %s, null, null, %s, %s, %s, %s, null, null)",
        [document.id for document in documents],
        [document.lease for document in documents],
        [document.content_hash for document in documents],
        model,
        [id for id, _ in places],
        [chunk.hash for _, chunk in places],
        [chunk.first for _, chunk in places],
        [chunk.last for _, chunk in places],
    )


def embed(db: Database) -> list[str]:
    """Claim, stage and complete until nothing is due. Returns what was staged, sorted."""
    return sorted(_embed(db))


def _embed(db: Database) -> Iterator[str]:
    while due(db):
        documents = claim(db)
        for document in documents:
            assert stage(db, document) == []
            yield from (chunk.content for chunk in document.unstored)
        assert complete(db, *documents) == []


def due(db: Database) -> bool:
    return bool(value(db, "select count_due_embeddings() > 0"))


def passages(db: Database, stem: str = "docs") -> list[tuple[Any, ...]]:
    """Key, position and content of each passage of a table with the key `id`."""
    view = sql.Identifier(f"{stem}_passages")
    return db.execute(
        sql.SQL("select id, position, content from {} order by 1, 2").format(view)
    ).fetchall()


# Each is empty if the passages of `docs (id, body)` are those of its texts, and its jobs are done.
FAULTS: dict[str, LiteralString] = {
    "a passage is not in its text": "select passage.* from docs_passages as passage join docs"
    " using (id) where content <> substr(body, first_char + 1, last_char - first_char)",
    "the passages are not the whole text": "select id from docs left join docs_passages using (id)"
    " group by id having coalesce(string_agg(content, '' order by position), '')"
    " <> case when body ~ '[^ ]' then body else '' end",
    "a chunk has no place": "select id, hash from docs_chunks except"
    " select id, hash from docs_chunk_places",
    "a place has no chunk": "select id, hash from docs_chunk_places except"
    " select id, hash from docs_chunks",
    "a job is not done": "select record_id, status, error_message from embedding_queue"
    " where status not in ('completed', 'skipped')",
    "a row has no job": "select id::text from docs except select record_id from embedding_queue",
    "a job has no row": "select record_id from embedding_queue except select id::text from docs",
}


def faults(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """What is wrong with `docs` and its chunks."""
    found = {fault: rows(db, query) for fault, query in FAULTS.items()}
    wrong = [
        content
        for content, vector in rows(db, "select content, embedding::real[] from docs_chunks")
        if vector != vector_of(content)
    ]
    return {fault: found for fault, found in found.items() if found} | (
        {"a vector is not that of its chunk": [(content,) for content in wrong]} if wrong else {}
    )
