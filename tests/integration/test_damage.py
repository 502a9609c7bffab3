"""Vectors that vanished or were overwritten are found; what our own functions do is no damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import LiteralString

import pytest

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration import chunks
from tests.integration.jobs import claim
from tests.integration.reembeddings import (
    NAME,
    create_embedded,
    create_searched,
    embed_all,
    fill,
    make_ready,
    make_swapped,
    start,
)
from tests.integration.test_chunk_tables import KEYS, create_keyed
from worker.errors import Busy, SettingsError
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue

Found = list[tuple[str, str]]
OVERWRITE: LiteralString = "update docs set embedding = '[9,8,7]' where id = 2"


def damage(queue: AdminQueue, column: str = "embedding", batch: int = 5000) -> Found:
    """Records and their damage in a whole column."""
    found: Found = []
    after, is_done = None, False
    while not is_done:
        part = queue.damaged(queue.target("docs", column), after, batch)
        found += [(row.record_id, row.damage) for row in part.rows]
        after = part.looked_to
        is_done = after is None
    return found


@pytest.fixture
def three(db: Database) -> Database:
    """A table `docs` of three rows with their vectors."""
    return db


# -- what is damage


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("select", []),
        (OVERWRITE, [("2", "overwritten")]),
        ("update docs set embedding = null where id = 2", [("2", "lost")]),
        (
            "update docs set embedding = case id when 1 then '[1,1,1]'::vector end",
            [("1", "overwritten"), ("2", "lost"), ("3", "lost")],
        ),
        (
            "update docs set embedding = l2_normalize(embedding) where id = 3",
            [("3", "overwritten")],
        ),
        ("update docs set embedding = embedding", []),
        ("update docs set tenant = 2", []),
    ],
)
def test_vectors_that_vanished_or_were_overwritten_are_found(
    three: Database, queue: AdminQueue, plant: LiteralString, found: Found
) -> None:
    three.execute(plant)
    assert damage(queue) == found
    for batch in (1, 2):
        assert damage(queue, batch=batch) == found


def test_damage_comes_with_what_the_vector_was_made_from(
    three: Database, queue: AdminQueue
) -> None:
    three.execute(OVERWRITE)
    three.execute("update embedding_queue set tokens = 7, cost = 0.5")
    part = queue.damaged(queue.target("docs", "embedding"), None)
    [row] = part.rows
    assert (row.content_hash, row.model) == rows(
        three, "select sha256('text 2'), model from embedding_queue limit 1"
    )[0]
    assert (row.tokens, row.cost, part.looked_to) == (7, 0.5, None)


@pytest.mark.contract
def test_rows_that_were_truncated_away_and_put_back_are_lost(
    three: Database, queue: AdminQueue
) -> None:
    three.execute("create table saved as select id, body from docs")
    three.execute("set session_replication_role = replica; truncate docs;")
    three.execute("insert into docs (id, body) select id, body from saved")
    three.execute("reset session_replication_role")
    assert damage(queue) == [("1", "lost"), ("2", "lost"), ("3", "lost")]


@pytest.mark.parametrize("kind", ["halfvec(3)", "vector", "halfvec"])
def test_damage_is_found_in_every_type_of_column(
    db: Database, queue: AdminQueue, kind: LiteralString
) -> None:
    db.execute("create table docs (id bigint primary key, body text, embedding " + kind + ")")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 3) as i")
    embed_all(queue)
    assert damage(queue) == []
    db.execute(OVERWRITE)
    assert damage(queue) == [("2", "overwritten")]


def test_damage_is_found_in_a_side_table(db: Database, queue: AdminQueue) -> None:
    create_searched(db, options=", store => 'table'")
    embed_all(queue)
    assert damage(queue) == []
    db.execute("update docs_embedding set embedding = '[9,8,7]' where id = 1")
    db.execute("delete from docs_embedding where id = 2")
    assert damage(queue) == [("1", "overwritten"), ("2", "lost")]


@pytest.mark.parametrize("kind", rest_in_full(KEYS, 3))
@pytest.mark.parametrize("store", ["table", "chunks"])
def test_damage_is_found_by_a_key_of_any_type(
    db: Database, queue: AdminQueue, kind: str, store: str
) -> None:
    in_chunks = store == "chunks"
    create_keyed(db, kind, "chunks => true" if in_chunks else "store => 'table'")
    table: LiteralString
    if in_chunks:
        table = "docs_chunks"
        chunks.embed(db)
    else:
        table = "docs_embedding"
        embed_all(queue)
    assert damage(queue) == damage(queue, batch=1) == []
    db.execute("update " + table + " set embedding = '[9,8,7]'")
    found = damage(queue)
    assert [each for _, each in found] == ["overwritten"] * 2
    assert {record for record, _ in found} == {
        record for (record,) in rows(db, "select record_id from embedding_queue")
    }
    assert damage(queue, batch=1) == found
    db.execute("delete from " + table)
    assert damage(queue) == [(record, "lost") for record, _ in found]


# -- what is none


@pytest.mark.parametrize(
    "plant",
    [
        "update docs set embedding = null where id = 2; update docs set body = ' ' where id = 2",
        "update docs set embedding = '[9,8,7]', body = 'edited' where id = 2",
        "update docs set embedding = null; select requeue_embeddings(only_status => null)",
        "delete from docs where id = 2",
        "update docs set id = 20 where id = 2",
        "delete from embedding_queue where record_id = '2'; update docs set embedding = null"
        " where id = 2",
        "update docs set embedding = null where id = 2; set session_replication_role = replica;"
        " update docs set body = 'unseen' where id = 2; reset session_replication_role",
        "update docs set embedding = null where id = 2;"
        " update embedding_queue set model = 'another:model' where record_id = '2'",
        "update embedding_queue set vector_hash = null; update docs set embedding = '[9,8,7]'",
    ],
)
def test_what_the_queue_explains_is_no_damage(
    three: Database, queue: AdminQueue, plant: LiteralString
) -> None:
    three.execute(plant)
    assert damage(queue) == []
    embed_all(queue)
    assert damage(queue) == []


def test_a_row_outside_the_filter_is_not_damaged(db: Database, queue: AdminQueue) -> None:
    create_searched(db, options=", filter => 'tenant = 1'")
    embed_all(queue)
    db.execute("set session_replication_role = replica")
    db.execute("update docs set tenant = 2, embedding = null where id = 2")
    db.execute("update docs set embedding = null where id = 3")
    db.execute("reset session_replication_role")
    assert damage(queue) == [("3", "lost")]


def test_a_row_that_cannot_be_read_is_not_damaged(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text, views integer default 1)")
    db.execute(
        "select watch_embeddings('docs', '(12 / views)::text || body', 'embedding',"
        " dimensions => 3)"
    )
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 9) as i")
    embed_all(queue)
    db.execute("set session_replication_role = replica")
    db.execute("update docs set embedding = null where id in (3, 4, 7)")
    db.execute("update docs set views = 0 where id = 4")
    db.execute("reset session_replication_role")
    assert damage(queue) == [("3", "lost"), ("7", "lost")]


def test_a_vector_that_a_trigger_makes_is_not_damaged(three: Database, queue: AdminQueue) -> None:
    three.execute(
        "create function unit() returns trigger language plpgsql"
        " set search_path = public, extensions as"
        " $$ begin new.embedding := l2_normalize(new.embedding); return new; end $$"
    )
    three.execute("create trigger unit before update on docs for each row execute function unit()")
    three.execute("update docs set body = body || ' more'")
    embed_all(queue)
    assert damage(queue) == []
    three.execute("update docs set tenant = 3")
    assert damage(queue) == []


# -- changes of our own functions


@pytest.fixture
def owner(queue: AdminQueue, database_url: str) -> Iterator[PostgresQueue]:
    with PostgresQueue(database_url, "tests") as owner:
        yield owner


def swapped(db: Database, owner: PostgresQueue) -> None:
    make_swapped(owner)


def rolled_back(db: Database, owner: PostgresQueue) -> None:
    make_swapped(owner)
    owner.rollback_reembedding(*NAME)


def renamed(db: Database, owner: PostgresQueue) -> None:
    make_swapped(owner)
    owner.finish_reembedding(*NAME)
    owner.rename_reembedded(*NAME)


def in_a_side_table(db: Database, owner: PostgresQueue) -> None:
    start(owner, store="table")
    fill(owner)
    make_ready(owner)
    owner.swap_reembedding(*NAME)
    owner.finish_reembedding(*NAME)
    owner.rename_reembedded(*NAME)


def converted(db: Database, owner: PostgresQueue) -> None:
    owner.convert("docs", "embedding", "halfvec")
    while owner.backfill(owner.target("docs", "embedding_2"), 100):
        pass
    [reembedding] = owner.reembeddings()
    cast = owner.cast(reembedding, 0, 100)
    assert cast
    assert cast.filled == 3
    assert owner.cast(reembedding, cast.looked_to, 100) is None
    make_ready(owner)
    owner.swap_reembedding(*NAME)


def watched_again(db: Database, owner: PostgresQueue) -> None:
    db.execute("select unwatch_embeddings('docs', 'embedding')")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute("select backfill_embeddings('docs', 'embedding')")


def rewatched_with_another_model(db: Database, owner: PostgresQueue) -> None:
    db.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'test:other')")


def renamed_by_hand(db: Database, owner: PostgresQueue) -> None:
    db.execute("alter table docs rename embedding to vector")
    db.execute("select watch_embeddings('docs', 'body', 'vector')")


@pytest.mark.over_a_connection
@pytest.mark.parametrize(
    "change",
    rest_in_full(
        [
            swapped,
            rolled_back,
            renamed,
            in_a_side_table,
            converted,
            watched_again,
            rewatched_with_another_model,
            renamed_by_hand,
        ],
        first=5,
    ),
)
def test_what_our_own_functions_do_is_no_damage(
    three: Database, owner: PostgresQueue, change: Callable[[Database, PostgresQueue], None]
) -> None:
    change(three, owner)
    columns = [name for (name,) in rows(three, "select embedding_column from embedding_targets")]
    assert columns
    assert [damage(owner, column) for column in columns] == [[]] * len(columns)
    embed_all(owner)
    assert [damage(owner, column) for column in columns] == [[]] * len(columns)


# -- texts in chunks


def create_three_chunked(db: Database) -> None:
    chunks.create_chunked(db)
    db.execute(
        "insert into docs select i, 'T', 'One ' || i || '. Two. Three.', 1"
        " from generate_series(1, 3) as i"
    )
    chunks.embed(db)


FIRST_TABLES = {"three": create_embedded, "chunked": create_three_chunked}


@pytest.fixture
def chunked(db: Database) -> Database:
    """Three texts of three chunks each."""
    return db


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("select", []),
        ("delete from docs_chunks where id = 2 and content = 'Two. '", [("2", "lost")]),
        ("delete from docs_chunk_places where id = 2", [("2", "lost")]),
        (
            "update docs_chunks set embedding = '[9,8,7]' where content = 'Two. ' and id <> 2",
            [("1", "overwritten"), ("3", "overwritten")],
        ),
        (
            "update docs_chunks set embedding = '[9,8,7]' where content = 'Two. ';"
            " delete from docs_chunks where id = 1 and content = 'Three.'",
            [("1", "lost"), ("2", "overwritten"), ("3", "overwritten")],
        ),
        ("update docs_chunks set embedding = '[9,8,7]'; update docs set body = 'Edited.'", []),
        ("delete from docs_chunks; select requeue_embeddings(only_status => null)", []),
        (
            "insert into docs_chunks values (1, 'no place', '', null, '[1,2,3]', 5)",
            [],
        ),
    ],
)
def test_damage_of_chunks_is_found(
    chunked: Database, queue: AdminQueue, plant: LiteralString, found: Found
) -> None:
    chunked.execute(plant)
    assert damage(queue) == found
    for batch in (1, 2):
        assert damage(queue, batch=batch) == found


def test_chunks_that_are_converted_are_not_damaged(chunked: Database, queue: AdminQueue) -> None:
    chunked.execute("select convert_embeddings('docs', 'embedding', 'halfvec')")
    chunked.execute("select backfill_embeddings('docs', 'embedding_2')")
    chunked.execute("select cast_embeddings('docs', 'embedding', 0, 100)")
    assert value(chunked, "select count(*) from docs_embedding_2_chunks") == 9
    assert damage(queue, "embedding_2") == []
    chunked.execute("update docs_embedding_2_chunks set embedding = '[9,8,7]' where id = 2")
    assert damage(queue, "embedding_2") == [("2", "overwritten")]


# -- calls


def test_a_range_ends_before_its_vectors_are_too_large(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text, embedding vector)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 600) as i")
    assert queue.damaged(queue.target("docs", "embedding"), None).looked_to == "262"


@pytest.mark.contract
def test_a_range_of_texts_in_chunks_ends_before_their_vectors_are_too_large(
    db: Database, queue: AdminQueue
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', dimensions => 4000, chunks => true)")
    db.execute("insert into docs select i, 'text' from generate_series(1, 9) as i")
    db.execute(
        "insert into docs_chunk_places (id, position, hash, first_char, last_char)"
        " select i, p, int4send(p), 0, 1"
        "  from generate_series(1, 9) as i,"
        "       generate_series(0, case i when 5 then 2000 else 399 end) as p"
    )
    target = queue.target("docs", "embedding")
    ends: list[str | None] = ["0"]
    while (last := ends[-1]) is not None:
        ends.append(queue.damaged(target, last if last != "0" else None).looked_to)
    assert ends[1:] == ["2", "4", "5", "7", None]


def test_a_call_returns_at_most_a_thousand_and_the_next_one_the_others(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 1500) as i")
    embed_all(queue)
    docs.execute("update docs set embedding = null where id > 100")
    part = queue.damaged(queue.target("docs", "embedding"), None)
    assert (len(part.rows), part.looked_to) == (1000, "1100")
    assert len(damage(queue)) == 1400


def test_a_job_that_is_being_embedded_is_not_damaged(three: Database, queue: AdminQueue) -> None:
    three.execute("update docs set body = body || '.', embedding = null")
    assert len(claim(queue)) == 3
    assert damage(queue) == []


def test_nothing_is_damaged_in_an_empty_table(docs: Database, queue: AdminQueue) -> None:
    part = queue.damaged(queue.target("docs", "embedding"), None)
    assert (part.rows, part.looked_to) == ([], None)


def test_looking_for_damage_writes_nothing(three: Database, queue: AdminQueue) -> None:
    three.execute(OVERWRITE)
    before = rows(three, "select * from embedding_queue order by id")
    damage(queue)
    assert rows(three, "select * from embedding_queue order by id") == before


@pytest.mark.contract
def test_a_table_that_is_locked_and_one_that_is_not_watched_are_errors(
    three: Database, queue: AdminQueue
) -> None:
    target = queue.target("docs", "embedding")
    with three.transaction():
        three.execute("lock table docs")
        with pytest.raises(Busy, match="locked"):
            queue.damaged(target, None)
    three.execute("select unwatch_embeddings('docs', 'embedding')")
    with pytest.raises(SettingsError, match="not watched"):
        queue.damaged(target, None)
