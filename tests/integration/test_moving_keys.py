"""A vector belongs to the text of its row also after keys have moved from row to row."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.conftest import Database, rest_in_full, rows
from tests.integration.jobs import claim
from tests.integration.tables import embed, embed_all, jobs, vector_of
from worker.queue.postgres import PostgresQueue

TABLES: dict[str, LiteralString] = {
    "bigint": "id bigint primary key deferrable",
    "text": "id text primary key deferrable",
    "composite": "id bigint, list text default 'a', primary key (list, id) deferrable",
    "initially deferred": "id bigint primary key deferrable initially deferred",
}
MOVES: dict[str, LiteralString] = {
    "up": "update items set id = (id::int + 1)::{type}",
    "down": "update items set id = (id::int - 1)::{type}",
    "swap": "update items set id = (case id::int when 2 then 3 else 2 end)::{type}"
    " where id::int in (2, 3)",
    "swap with an edit": "update items set body = body || ' edited',"
    " id = (case id::int when 2 then 3 else 2 end)::{type} where id::int in (2, 3)",
    "reversal": "update items set id = (7 - id::int)::{type}",
    "rotation": "update items set id = (id::int % 6 + 1)::{type}",
    "delete and renumber": "with gone as (delete from items where id::int = 2)"
    " update items set id = (id::int - 1)::{type} where id::int > 2",
    "insert and renumber": "with new as (insert into items (id, body) values ('1', 'new'))"
    " update items set id = (id::int + 1)::{type}",
    "delete, insert and renumber": "with gone as (delete from items where id::int = 2),"
    " new as (insert into items (id, body) values ('1', 'new'))"
    " update items set id = (id::int + 1)::{type} where id::int = 1",
    "delete and insert": "with gone as (delete from items where id::int = 2)"
    " insert into items (id, body) values ('2', 'new')",
    "insert and delete": "with new as (insert into items (id, body) values ('2', 'new'))"
    " delete from items where id::int = 2 and body = 'text 2'",
    "the text of another row": "with gone as (delete from items where id::int = 1)"
    " update items set id = '1', body = 'text 1' where id::int = 2",
    "merge": "merge into items using (values ('2', 'new')) as given (id, body) on false"
    " when not matched by source and id::int = 2 then delete"
    " when not matched then insert (id, body) values (given.id::{type}, given.body)",
}


@pytest.fixture(params=TABLES)
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def items(db: Database, queue: PostgresQueue, key: str) -> Database:
    """The table `items` with six rows that have their vectors."""
    db.execute(f"create table items ({TABLES[key]}, body text)")
    db.execute("select watch_embeddings('items', 'body', 'embedding', dimensions => 3)")
    db.execute(
        "insert into items (id, body) values ('1', 'text 1'), ('2', 'text 2'), ('3', 'text 3'),"
        " ('4', 'text 4'), ('5', 'text 5'), ('6', 'text 6')"
    )
    embed_all(queue)
    return db


def all_is_well(db: Database, queue: PostgresQueue) -> bool:
    """Each vector is that of its row, and there is one job for each row."""
    embed_all(queue)
    found = rows(db, "select body, embedding::real[] from items")
    assert [(body, vector) for body, vector in found if vector != vector_of(body)] == []
    assert len(jobs(db)) == len(found)
    assert {status for _, status in jobs(db)} == {"completed"}
    return True


@pytest.mark.parametrize("move", rest_in_full(MOVES, first=5))
@pytest.mark.parametrize("key", rest_in_full(TABLES), indirect=True)
def test_each_vector_is_that_of_its_row_after_keys_have_moved(
    items: Database, queue: PostgresQueue, key: str, move: str
) -> None:
    if move == "merge" and items.info.server_version < 170000:
        pytest.skip("MERGE knows `by source` since Postgres 17")
    statement = MOVES[move].format(type="text" if key == "text" else "bigint")
    items.execute(statement.encode())
    assert all_is_well(items, queue)


@pytest.mark.parametrize(
    "move",
    rest_in_full(["up", "swap", "reversal", "delete and renumber", "delete and insert"], first=3),
)
def test_a_vector_that_was_under_way_is_not_written_into_the_row_that_took_the_key(
    items: Database, queue: PostgresQueue, key: str, move: str
) -> None:
    items.execute("update items set body = body || ' once more'")
    under_way = claim(queue)
    statement = MOVES[move].format(type="text" if key == "text" else "bigint")
    items.execute(statement.encode())
    if under_way:
        embed(queue, under_way)
    assert all_is_well(items, queue)


def test_a_swap_across_partitions_keeps_both_jobs(db: Database, queue: PostgresQueue) -> None:
    db.execute(
        "create table events (area text, id bigint, body text, primary key (area, id))"
        " partition by list (area)"
    )
    db.execute("create table events_north partition of events for values in ('north')")
    db.execute("create table events_south partition of events for values in ('south')")
    db.execute("select watch_embeddings('events', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into events values ('north', 1, 'one'), ('south', 2, 'two')")
    embed_all(queue)
    with db.transaction():
        db.execute("update events set area = 'east' where false")
        db.execute("delete from events where id = 1")
        db.execute("update events set area = 'north', id = 1 where id = 2")
        db.execute("insert into events values ('south', 2, 'new')")
    embed_all(queue)
    assert rows(db, "select area, body, embedding::real[] from events order by 1") == [
        ("north", "two", vector_of("two")),
        ("south", "new", vector_of("new")),
    ]
    assert sorted(jobs(db)) == [
        ('["north", 1]', "completed"),
        ('["south", 2]', "completed"),
    ]


def test_the_owner_of_a_job_is_that_of_the_row_which_has_the_key_at_last(
    db: Database, queue: PostgresQueue
) -> None:
    """Row 1 passes through the key of row 2: afterwards that job belongs to row 2 again."""
    db.execute(
        "create table notes (id bigint primary key deferrable initially deferred, body text,"
        " user_id uuid default gen_random_uuid())"
    )
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into notes values (1, 'one'), (2, 'two')")
    embed_all(queue)
    with db.transaction():
        db.execute("update notes set id = 2 where id = 1")
        db.execute("update notes set id = 3 where id = 2 and body = 'one'")
    db.execute("update notes set id = 5 - id")
    embed_all(queue)
    assert rows(
        db,
        "select body, embedding::real[], notes.user_id = job.user_id"
        " from notes left join embedding_queue as job on record_id = notes.id::text order by 1",
    ) == [("one", vector_of("one"), True), ("two", vector_of("two"), True)]


def test_a_key_that_is_equal_but_written_differently_is_one_record(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table prices (id numeric primary key, body text)")
    db.execute("select watch_embeddings('prices', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into prices values (1.0, 'one')")
    embed_all(queue)
    db.execute("update prices set id = 1.00")
    embed_all(queue)
    assert jobs(db) == [("1.00", "completed")]


def test_a_renumbered_table_that_is_emptied_leaves_no_job(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table items (id bigint primary key deferrable, body text)")
    db.execute("select watch_embeddings('items', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into items select i, 'text ' || i from generate_series(1, 6) i")
    db.execute("update items set id = id + 1")
    db.execute("delete from items where id < 4")
    assert sorted(jobs(db)) == [(str(key), "pending") for key in (4, 5, 6, 7)]
    with db.transaction():
        db.execute("truncate items")
        db.execute("insert into items values (4, 'new')")
    assert jobs(db) == [("4", "pending")]
    assert embed_all(queue) == ["new"]
