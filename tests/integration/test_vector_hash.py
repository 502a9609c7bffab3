"""Each vector is stored with its hash: of what is stored, however it got there."""

from __future__ import annotations

from typing import LiteralString

import numpy as np
import pytest

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration import chunks
from tests.integration.jobs import SCOPE, claim, claim_one
from tests.integration.tables import parsed
from tests.integration.test_chunk_tables import KEYS, create_keyed
from tests.vector_hash import vector_hash
from worker.queue import AdminQueue, Completion, Job
from worker.queue.postgres import PostgresQueue

UNIT: LiteralString = (
    "create function unit() returns trigger language plpgsql as"
    " $$ begin new.embedding := public.l2_normalize(new.embedding); return new; end $$"
)
UNIT_LATER: LiteralString = (
    "create function unit() returns trigger language plpgsql as $$ begin"
    "  update public.docs set embedding = public.l2_normalize(embedding)"
    "   where id = new.id and public.vector_norm(embedding) > 1.01; return new; end $$"
)
BEFORE: LiteralString = (
    "create trigger unit before update on {} for each row execute function unit()"
)


def numbers(seed: int, width: int = 3) -> list[float]:
    """Numbers of a vector that a halfvec cannot hold exactly."""
    drawn = np.random.default_rng(seed).standard_normal(width).astype(np.float32)
    return [float(number) for number in drawn]


def completion_of(job: Job) -> Completion:
    vector = numbers(len(job.content), job.dimensions or 3)
    return Completion(job, np.array(vector, dtype=np.float32), None)


def embed(queue: AdminQueue) -> int:
    """Embed all that is due. Returns how many texts the model got."""
    embedded = 0
    while (claimed := queue.claim(SCOPE, 100)).jobs or claimed.settled:
        if claimed.jobs:
            done = [completion_of(job) for job in claimed.jobs]
            assert queue.complete("test:model", done) == []
        embedded += len(claimed.jobs)
    return embedded


def hashes(db: Database, column: str = "embedding") -> dict[str, int | None]:
    return dict(
        rows(
            db,
            "select record_id, vector_hash from embedding_queue where embedding_column = %s",
            column,
        )
    )


def hashes_of_stored(db: Database, query: LiteralString) -> dict[str, int]:
    """The hash of each vector of a query of a record id and the text of its vector."""
    found = ((record, parsed(vector)) for record, vector in rows(db, query))
    return {record: vector_hash(vector) for record, vector in found if vector}


@pytest.fixture
def two(docs: Database, queue: AdminQueue) -> Database:
    """Two rows with their vectors."""
    docs.execute("insert into docs values (1, 'one'), (2, 'second')")
    assert embed(queue) == 2
    return docs


STORED: LiteralString = "select id::text, embedding::text from docs"


# -- the hash itself


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 384, 1999])
def test_a_hash_is_computed_without_postgres(docs: Database, width: int) -> None:
    docs.execute(f"create table wide (id bigint primary key, v vector({width}))")
    drawn = [*numbers(width, width), -0.0, 1e-40, 3e38][-width:]
    docs.execute("insert into wide values (1, %s::real[]::vector)", [drawn])
    statement = value(
        docs,
        "select embedding.vector_hash_sql(target, 'v') from embedding_targets as target",
    )
    assert value(docs, f"select {statement} from wide") == vector_hash(drawn)
    assert value(docs, f"select {statement} from (select null::vector as v) as n") is None


# -- written


@pytest.mark.parametrize("kind", ["vector(3)", "halfvec(3)", "vector", "halfvec"])
def test_a_completion_stores_the_hash_of_the_stored_vector(
    db: Database, queue: AdminQueue, kind: LiteralString
) -> None:
    db.execute("create table docs (id bigint primary key, body text, embedding " + kind + ")")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute("insert into docs values (1, 'one'), (2, 'second')")
    assert embed(queue) == 2
    assert hashes(db) == hashes_of_stored(db, STORED)
    assert len(set(hashes(db).values())) == 2


@pytest.mark.parametrize("kind", rest_in_full(KEYS, 3))
def test_a_completion_stores_the_hash_of_a_vector_in_a_side_table(
    db: Database, queue: AdminQueue, kind: str
) -> None:
    create_keyed(db, kind, "store => 'table'")
    embedded = embed(queue)
    stored = hashes_of_stored(db, "select ctid::text, embedding::text from docs_embedding")
    assert embedded == len(stored) > 1
    assert sorted(hashes(db).values(), key=str) == sorted(stored.values(), key=str)


def test_a_vector_that_is_replaced_gets_another_hash(two: Database, queue: AdminQueue) -> None:
    before = hashes(two)
    two.execute("update docs set body = 'an edited text' where id = 1")
    assert embed(queue) == 1
    assert hashes(two) == hashes_of_stored(two, STORED)
    assert hashes(two)["1"] != before["1"]


@pytest.mark.parametrize(
    ("function", "trigger"),
    [
        (UNIT, BEFORE.format("docs")),
        (
            UNIT_LATER,
            "create trigger unit after update on docs for each row execute function unit()",
        ),
        (
            UNIT_LATER,
            "create constraint trigger unit after update on docs initially deferred"
            " for each row execute function unit()",
        ),
    ],
    ids=["before", "after", "deferred"],
)
def test_a_hash_is_that_of_the_vector_that_a_trigger_makes(
    docs: Database, queue: AdminQueue, function: LiteralString, trigger: LiteralString
) -> None:
    docs.execute(function)
    docs.execute(trigger)
    docs.execute("insert into docs values (1, 'one'), (2, 'second')")
    assert embed(queue) == 2
    norms = rows(docs, "select round(vector_norm(embedding)::numeric, 4) from docs")
    assert {float(norm) for (norm,) in norms} == {1.0}
    assert hashes(docs) == hashes_of_stored(docs, STORED)


def test_a_hash_is_that_of_the_vector_that_a_trigger_of_a_partition_makes(
    db: Database, queue: AdminQueue
) -> None:
    db.execute(
        "create table docs (id bigint primary key, body text, embedding vector(3))"
        " partition by range (id)"
    )
    db.execute("create table docs_1 partition of docs for values from (1) to (100)")
    db.execute(UNIT)
    db.execute(BEFORE.format("docs_1"))
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute("insert into docs values (1, 'one'), (2, 'second')")
    assert embed(queue) == 2
    assert hashes(db) == hashes_of_stored(db, STORED)


def test_a_hash_is_that_of_the_vector_that_a_trigger_of_a_side_table_makes(
    db: Database, queue: AdminQueue
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', store => 'table', dimensions => 3)")
    db.execute(UNIT)
    db.execute(
        "create trigger unit before insert or update on docs_embedding"
        " for each row execute function unit()"
    )
    stored: LiteralString = "select id::text, embedding::text from docs_embedding"
    db.execute("insert into docs values (1, 'one')")
    assert embed(queue) == 1
    assert hashes(db) == hashes_of_stored(db, stored)
    db.execute("update docs set body = 'edited'")
    assert embed(queue) == 1
    assert hashes(db) == hashes_of_stored(db, stored)


def test_a_row_whose_vector_a_trigger_removes_fails(docs: Database, queue: AdminQueue) -> None:
    docs.execute(
        "create function unit() returns trigger language plpgsql as"
        " $$ begin if new.id = 1 then new.embedding := null; end if; return new; end $$"
    )
    docs.execute(BEFORE.format("docs"))
    docs.execute("insert into docs values (1, 'one'), (2, 'second')")
    refused = queue.complete("test:model", [completion_of(job) for job in claim(queue)])
    assert [refusal.reason for refusal in refused] == ["unwritable"]
    ended: LiteralString = "select record_id, status, error_message from embedding_queue order by 1"
    assert rows(docs, ended) == [
        ("1", "failed", "a trigger of the table removes the vector"),
        ("2", "completed", None),
    ]


# -- kept and cleared


def test_a_claim_that_finds_nothing_changed_keeps_the_hash(
    two: Database, queue: AdminQueue
) -> None:
    before = hashes(two)
    two.execute("update docs set body = 'other'")
    two.execute("update docs set body = case id when 1 then 'one' else 'second' end")
    assert embed(queue) == 0
    assert rows(two, "select distinct status from embedding_queue") == [("completed",)]
    assert hashes(two) == before


def test_a_vector_that_is_cleared_has_no_hash(two: Database, queue: AdminQueue) -> None:
    two.execute("update docs set body = ' ' where id = 1")
    assert embed(queue) == 0
    assert hashes(two)["1"] is None


def test_a_row_that_takes_the_key_of_another_has_no_hash_until_it_is_embedded(
    two: Database, queue: AdminQueue
) -> None:
    two.execute("begin; delete from docs where id = 1; update docs set id = 1; commit")
    assert hashes(two) == {"1": None}
    assert embed(queue) == 1
    assert hashes(two) == hashes_of_stored(two, STORED)


def test_a_requeue_ends_with_the_hash_of_the_new_vector(two: Database, queue: AdminQueue) -> None:
    two.execute("update docs set embedding = null")
    queue.requeue(status=None)
    assert embed(queue) == 2
    assert hashes(two) == hashes_of_stored(two, STORED)


def test_a_completion_that_is_repeated_keeps_the_hash(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    done = [completion_of(claim_one(queue))]
    assert [queue.complete("test:model", done) for _ in range(2)] == [[], []]
    assert hashes(docs) == hashes_of_stored(docs, STORED)


# -- chunks

CHUNKS: LiteralString = "select hash::text, embedding::text from docs_chunks"


def hashes_of_chunks(db: Database) -> dict[str, int | None]:
    return dict(rows(db, "select hash::text, vector_hash from docs_chunks"))


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_a_chunk_is_staged_with_the_hash_of_the_stored_vector(
    db: Database, kind: LiteralString
) -> None:
    chunks.create_chunked(db)
    db.execute("alter table docs_chunks alter column embedding type " + kind + "(3)")
    db.execute("insert into docs values (1, 'T', 'One. Two. Three.', 1)")
    document = chunks.claim_one(db)
    uneven = {"Two. ": "[0.1,0.2,0.3]"}
    assert chunks.stage_all(db, [(document, chunk) for chunk in document.chunks], uneven) == []
    assert chunks.complete(db, document) == []
    assert hashes_of_chunks(db) == hashes_of_stored(db, CHUNKS)
    assert len(hashes_of_chunks(db)) == 3
    assert hashes(db) == {"1": None}


def test_a_chunk_that_is_staged_again_keeps_its_hash(db: Database) -> None:
    chunks.create_chunked(db)
    db.execute("insert into docs values (1, 'T', 'One. Two.', 1)")
    chunks.embed(db)
    before = hashes_of_chunks(db)
    db.execute("update docs_chunks set embedding = '[9,9,9]'")
    db.execute("select requeue_embeddings(only_status => null)")
    document = chunks.claim_one(db)
    assert chunks.stage(db, document, document.chunks) == []
    assert hashes_of_chunks(db) == before


def test_a_chunk_that_a_trigger_can_change_has_no_hash(db: Database) -> None:
    chunks.create_chunked(db)
    db.execute(UNIT)
    db.execute(
        "create trigger unit before insert on docs_chunks for each row execute function unit()"
    )
    db.execute("insert into docs values (1, 'T', 'One. Two.', 1)")
    chunks.embed(db)
    assert set(hashes_of_chunks(db).values()) == {None}


# -- casts


@pytest.mark.over_a_connection
@pytest.mark.parametrize(
    ("kind", "store", "stored"),
    [
        ("halfvec", None, "select id::text, embedding_2::text from docs"),
        ("halfvec", "table", "select id::text, embedding::text from docs_embedding_2"),
    ],
)
def test_a_cast_stores_the_hash_of_the_new_vector(
    two: Database, queue: PostgresQueue, kind: str, store: str, stored: LiteralString
) -> None:
    cast_all(two, kind, store)
    assert hashes(two, "embedding_2") == hashes_of_stored(two, stored)
    assert hashes(two, "embedding_2") != hashes(two)


@pytest.mark.over_a_connection
def test_a_cast_leaves_out_a_vector_that_was_overwritten(
    two: Database, queue: PostgresQueue
) -> None:
    two.execute("update docs set embedding = '[9,9,9]' where id = 1")
    cast_all(two, "halfvec", None)
    assert rows(
        two,
        "select record_id, status from embedding_queue"
        " where embedding_column = 'embedding_2' order by 1",
    ) == [("1", "pending"), ("2", "completed")]


@pytest.mark.over_a_connection
def test_a_cast_of_chunks_keeps_an_overwritten_one_apart(db: Database) -> None:
    chunks.create_chunked(db)
    db.execute("insert into docs values (1, 'T', 'One. Two.', 1)")
    chunks.embed(db)
    db.execute("update docs_chunks set embedding = '[9,9,9]' where content = 'Two.'")
    cast_all(db, "halfvec", None)
    differs = value(
        db,
        "select embedding.vector_hash_sql(target, 'embedding') || ' <> vector_hash'"
        " from embedding_targets as target where embedding_column = 'embedding_2'",
    )
    query = f"select content from docs_embedding_2_chunks where {differs}"
    assert rows(db, query) == [("Two.",)]


def cast_all(db: Database, kind: str, store: str | None) -> None:
    """Convert the vectors of `docs` as far as casts go."""
    db.execute("select convert_embeddings('docs', 'embedding', %s, store => %s)", [kind, store])
    db.execute("select backfill_embeddings('docs', 'embedding_2')")
    found = rows(db, "select filled from cast_embeddings('docs', 'embedding', 0, 100)")
    assert len(found) == 1
