"""Readers who never pause while texts in chunks are edited: they see one version of a text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database
from tests.integration.chunks import claim, complete, create_chunked, embed, faults, stage

EDITS = 200
SENTENCES = 20
# Each sentence says of which version of its text it is. The last begins with how many there are.
READ: dict[str, LiteralString] = {
    "view": "select content from docs_passages where id = 1 order by position",
    "search": "select content from search_embeddings('docs', 'embedding', '[1,2,3]', 100,"
    " per_document => 100) order by first_char",
    "match function": "select content from match_docs('[1,2,3]', 100, per_document => 100)"
    " order by first_char",
}


def version(number: int) -> str:
    """A text of some sentences, each of which names the version, and how many sentences it has."""
    count = SENTENCES + number % 3
    return "".join(f"Version {number} has {count}: {place}. " for place in range(count))


@pytest.fixture
def docs(db: Database) -> Database:
    create_chunked(db)
    db.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', match_function => true)"
    )
    db.execute("insert into docs (id, body) values (1, %s)", [version(0)])
    embed(db)
    return db


def read(url: str, query: LiteralString, over: Event) -> list[str]:
    """What was found, joined, each time that it was another text than before."""
    found = [""]
    with psycopg.connect(url, autocommit=True) as reader:
        while not over.is_set():
            text = "".join(content for (content,) in reader.execute(query))
            if text != found[-1]:
                found.append(text)
    return found[1:]


def edit(docs: Database, number: int) -> None:
    """Write a version, and embed it; every third is replaced when half of it is staged."""
    docs.execute("update docs set body = %s", [version(number)])
    if number % 3 == 0:
        [document] = claim(docs)
        assert stage(docs, document, document.chunks[::2]) == []
        docs.execute("update docs set body = %s", [version(number + EDITS)])
        assert complete(docs, document) == [(document.id, "lost")]
    embed(docs)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("view", marks=pytest.mark.only_in_full),
        pytest.param("search", marks=pytest.mark.only_in_full),
        "match function",
    ],
)
def test_a_reader_never_sees_two_versions_of_a_text_or_half_of_one(
    docs: Database, database_url: str, where: str
) -> None:
    over = Event()
    with ThreadPoolExecutor(2) as pool:
        try:
            readers = [pool.submit(read, database_url, READ[where], over) for _ in range(2)]
            for number in range(1, EDITS + 1):
                edit(docs, number)
        finally:
            over.set()
    written = {version(number) for number in range(2 * EDITS + 1)}
    for reader in readers:
        found = reader.result()
        assert set(found) <= written
        assert len(found) > EDITS // 4  # it read while there were edits
    assert faults(docs) == {}
