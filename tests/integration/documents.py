"""Long texts to embed in chunks, and what a test looks at when they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conftest import Database, rows, value
from tests.openai_server import OpenAIServer, vector_for


def paragraph(number: int, about: str = "the garden") -> str:
    """A text for one chunk of 100 characters, unlike those of other numbers."""
    return f"Paragraph {number} says a little about {about}, as all of its neighbours do as well."


def document(paragraphs: int, about: str = "the garden", first: int = 1) -> str:
    """A text of so many chunks."""
    return "\n\n".join(paragraph(number, about) for number in range(first, first + paragraphs))


def write(docs: Database, key: int, body: str) -> None:
    docs.execute(
        "insert into docs (id, body) values (%s, %s)"
        " on conflict (id) do update set body = excluded.body",
        [key, body],
    )


def passages(db: Database) -> int:
    found: int = value(db, "select count(*) from docs_passages")
    return found


def chunks(db: Database) -> int:
    found: int = value(db, "select count(*) from docs_chunks")
    return found


def sent(openai: OpenAIServer) -> list[str]:
    """The texts that the model was asked for."""
    return [text for request in openai.requests for text in request.texts]


def is_consistent(db: Database) -> bool:
    """Whether every completed document is all its passages, with their vectors, and no chunk is
    left that no passage needs."""
    pieces: dict[Any, list[str]] = {}
    for key, first, last, context, content, vector in rows(
        db,
        "select id, first_char, last_char, context, content, embedding::real[]"
        " from docs_chunk_places left join docs_chunks using (id, hash) order by id, position",
    ):
        assert np.allclose(vector, vector_for((context or "") + content, len(vector)), atol=1e-6)
        assert last - first == len(content)
        pieces.setdefault(key, []).append(content)
    for key, body in rows(
        db,
        "select docs.id, body from docs join embedding_queue on record_id = docs.id::text"
        " where status = 'completed'",
    ):
        assert "".join(pieces.get(key, [])) == body
    unneeded = (
        "select count(*) from docs_chunks join embedding_queue on record_id = docs_chunks.id::text"
        " where status = 'completed'"
        " and not exists (select from docs_chunk_places as place"
        " where (place.id, place.hash) = (docs_chunks.id, docs_chunks.hash))"
    )
    assert value(db, unneeded) == 0
    return True
