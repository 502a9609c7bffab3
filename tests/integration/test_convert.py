"""Vectors of another type, filled by a cast: `worker convert`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.acceptance.conftest import statuses
from tests.conftest import Database, rows, value
from tests.integration.documents import document, write
from tests.integration.runs import Runs
from tests.openai_server import OpenAIServer
from worker.errors import SettingsError
from worker.operations import reembed, reembed_start
from worker.operations.reembed_stages import Reembedder, StageOptions
from worker.queue import Reembedding, Store, VectorKind
from worker.queue.postgres import PostgresQueue

SAME = (
    "select count(*) from docs where embedding is distinct from embedding_2::vector(8)"
    " and embedding <-> embedding_2::vector(8) > 0.001 or embedding_2 is null"
)


@pytest.fixture
def owner(database_url: str) -> Iterator[PostgresQueue]:
    with PostgresQueue(database_url, "owner") as queue:
        yield queue


def convert(
    owner: PostgresQueue, runs: Runs, kind: VectorKind = "halfvec", store: Store | None = None
) -> Reembedding:
    begun = reembed_start.convert(owner, "docs", kind, store=store)
    settings = replace(runs.settings, embedding_model="openai:text-embedding-3-small")
    return Reembedder(owner, settings, StageOptions(sample=3)).run(begun)


@pytest.mark.over_a_connection
def test_a_column_is_converted_and_back_without_a_call_for_its_texts(
    texts: Database, runs: Runs, owner: PostgresQueue, openai: OpenAIServer
) -> None:
    for key in range(1, 31):
        write(texts, key, f"text {key}")
    runs.drain()
    sent = len(openai.requests)
    assert convert(owner, runs).state == "ready"
    assert value(texts, SAME) == 0
    found = rows(texts, "select distinct pg_typeof(embedding_2)::text from docs")
    assert found == [("halfvec",)]
    assert statuses(texts) == {"completed": 60}
    assert len(openai.requests) - sent <= 8  # those of the verification
    reembed.finish(owner, reembed.swap(owner, reembed.find_reembedding(owner, None)), rename=True)
    assert convert(owner, runs, "vector").state == "ready"
    assert value(texts, "select count(embedding_2) from docs") == 30


@pytest.mark.over_a_connection
def test_vectors_move_from_a_column_to_a_side_table_and_back_without_a_call_for_their_texts(
    texts: Database, runs: Runs, owner: PostgresQueue, openai: OpenAIServer
) -> None:
    for key in range(1, 6):
        write(texts, key, f"text {key}")
    runs.drain()
    texts.execute("create table known as select id, embedding from docs")
    steps: list[tuple[VectorKind, Store | None, str]] = [
        ("vector", "table", "docs_embedding"),
        ("halfvec", None, "docs_embedding"),
        ("vector", None, "docs_embedding"),
        ("vector", "column", "docs"),
    ]
    for kind, store, table in steps:
        sent = len(openai.requests)
        ready = convert(owner, runs, kind, store)
        assert ready.state == "ready"
        assert len(openai.requests) - sent <= 8  # those of the verification
        reembed.finish(owner, reembed.swap(owner, ready), rename=True)
        same = (
            f"select count(*), min(pg_typeof({table}.embedding)::text) from {table}"
            f" join known using (id) where {table}.embedding::vector(8) <-> known.embedding < 0.001"
        )
        assert texts.execute(same.encode()).fetchall() == [(5, kind)]
    write(texts, 1, "another text")
    assert runs.drain().completed == 1


@pytest.mark.over_a_connection
def test_only_vectors_of_the_present_texts_are_cast(
    texts: Database, runs: Runs, owner: PostgresQueue, openai: OpenAIServer
) -> None:
    """An edit that no worker has seen yet, a failed text, an empty one, and one that is new."""
    for key in range(1, 6):
        write(texts, key, f"text {key}")
    write(texts, 6, "")
    runs.drain()
    begun = reembed_start.convert(owner, "docs", "halfvec")
    assert owner.backfill(owner.target("docs", "embedding_2"), 100) == 6
    write(texts, 2, "another text")
    write(texts, 7, "a new text")
    assert runs.drain(limit=0).completed == 0
    found = owner.cast(begun, 0, 100)
    assert found
    assert found.filled == 4
    assert rows(texts, "select id from docs where embedding_2 is null order by id") == [
        (2,),
        (6,),
        (7,),
    ]
    assert owner.cast(begun, found.looked_to, 100) is None
    runs.drain()
    assert value(texts, SAME) == 1  # the empty one


@pytest.mark.over_a_connection
def test_no_worker_pays_for_what_a_cast_will_fill(
    texts: Database, runs: Runs, owner: PostgresQueue, openai: OpenAIServer
) -> None:
    for key in range(1, 6):
        write(texts, key, f"text {key}")
    runs.drain()
    begun = reembed_start.convert(owner, "docs", "halfvec")
    owner.backfill(owner.target("docs", "embedding_2"), 100)
    openai.requests.clear()
    assert runs.drain().completed == 0
    assert openai.requests == []
    first = owner.cast(begun, 0, 3)
    assert first
    assert first.filled == 3
    assert runs.drain().completed == 0
    second = owner.cast(begun, first.looked_to, 3)
    assert second
    assert second.filled == 2
    assert owner.cast(begun, second.looked_to, 3) is None
    assert value(texts, SAME) == 0


@pytest.mark.over_a_connection
def test_a_pause_of_a_conversion_costs_nothing(
    texts: Database, runs: Runs, owner: PostgresQueue, openai: OpenAIServer
) -> None:
    for key in range(1, 6):
        write(texts, key, f"text {key}")
    runs.drain()
    paused = reembed.pause(owner, reembed_start.convert(owner, "docs", "halfvec"))
    openai.requests.clear()
    resumed = reembed.resume(owner, paused)
    owner.backfill(owner.target("docs", "embedding_2"), 100)
    assert runs.drain().completed == 0
    assert openai.requests == []
    settings = replace(runs.settings, embedding_model="openai:text-embedding-3-small")
    assert Reembedder(owner, settings, StageOptions(sample=3)).run(resumed).state == "ready"
    assert value(texts, SAME) == 0
    write(texts, 6, "text 6")
    assert runs.drain().completed == 2  # a worker goes on with both columns


@pytest.mark.over_a_connection
def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    texts: Database, runs: Runs, owner: PostgresQueue
) -> None:
    write(texts, 1, "one")
    runs.drain()
    texts.execute("update docs set embedding = '[70000,0,0,0,0,0,0,0]'")
    with pytest.raises(SettingsError, match="does not fit into halfvec"):
        reembed_start.convert(owner, "docs", "halfvec")
    with pytest.raises(SettingsError, match="already"):
        reembed_start.convert(owner, "docs", "vector")
    assert owner.reembeddings() == []
    assert len(owner.targets()) == 1


def test_what_is_too_wide_for_the_type_is_refused(db: Database, owner: PostgresQueue) -> None:
    db.execute("create table wide (id bigint primary key, body text, embedding halfvec(3072))")
    db.execute("select watch_embeddings('wide', 'body', 'embedding', model => 'test:wide')")
    with pytest.raises(SettingsError, match="3072 dimensions cannot be converted to vector"):
        reembed_start.convert(owner, "wide", "vector")
    assert owner.reembeddings() == []


@pytest.mark.over_a_connection
def test_texts_in_chunks_are_converted_with_their_places(
    db: Database, runs: Runs, owner: PostgresQueue, openai: OpenAIServer
) -> None:
    db.execute("create table docs (id bigint primary key, title text, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', dimensions => 8, chunks => true,"
        " chunk_size => 100)"
    )
    for key in range(1, 6):
        write(db, key, document(key))
    runs.drain()
    assert convert(owner, runs).state == "ready"
    old = "select id, position, hash, content from docs_passages order by id, position"
    new = old.replace("docs_passages", "docs_embedding_2_passages")
    assert rows(db, old) == rows(db, new)
    assert value(db, "select count(*) from docs_embedding_2_chunks") == 15
    write(db, 1, document(2, about="the roof"))
    runs.drain()
    assert rows(db, old) == rows(db, new)
