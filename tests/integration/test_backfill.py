"""Rows that were there before their column was watched are enqueued, each once, in key order."""

from __future__ import annotations

from typing import LiteralString

import pytest
from psycopg import sql

from tests.conftest import Database, rows, value
from tests.integration.jobs import claim, create_poison
from tests.integration.tables import Connect, Table, embed, embed_all, jobs, refusal
from worker.errors import WorkerError
from worker.queue import AdminQueue, Target

QUEUED: LiteralString = "select record_id from embedding_queue order by id"


@pytest.fixture
def old(db: Database, queue: AdminQueue) -> Target:
    """The table `docs`, watched after 25 rows had come in."""
    table = Table(db)
    table.create()
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 25) i")
    table.watch()
    return queue.target("docs", "embedding")


def backfill_all(queue: AdminQueue, target: Target, batch: int) -> list[int]:
    """Backfill until nothing is left. Returns how many rows each call found."""
    found = [queue.backfill(target, batch)]
    while found[-1]:
        found.append(queue.backfill(target, batch))
    return found


def test_watching_alone_enqueues_nothing(db: Database, old: Target) -> None:
    assert jobs(db) == []


def test_every_row_is_enqueued_in_batches_until_none_is_left(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    assert backfill_all(queue, old, 10) == [10, 10, 5, 0]
    assert jobs(db) == [(str(key), "pending") for key in range(1, 26)]
    assert backfill_all(queue, old, 10) == [0]
    assert len(embed_all(queue)) == 25
    assert backfill_all(queue, old, 10) == [0]


def test_batches_that_come_out_even_end_as_well(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    assert backfill_all(queue, old, 5) == [5, 5, 5, 5, 5, 0]
    assert len(jobs(db)) == 25


def test_uuids_are_enqueued_in_their_order(db: Database, queue: AdminQueue) -> None:
    table = Table(db)
    table.create("uuid")
    db.execute(
        "insert into docs select gen_random_uuid(), 'text ' || i from generate_series(1, 50) i"
    )
    table.watch()
    assert backfill_all(queue, queue.target("docs", "embedding"), 7) == [7] * 7 + [1, 0]
    assert rows(db, QUEUED) == rows(db, "select id::text from docs order by docs.id")


def test_composite_keys_are_enqueued_in_their_order(db: Database, queue: AdminQueue) -> None:
    db.execute(
        "create table parts (place integer, name text, body text, primary key (name, place))"
    )
    db.execute(
        "insert into parts select place, name, name || place from generate_series(-20, 20) place,"
        " unnest(array['', 'a', 'a''b', 'a\"b', 'a,b', 'a\\b', 'B', 'ü', '100%']) name"
    )
    db.execute("select watch_embeddings('parts', 'body', 'embedding', dimensions => 3)")
    assert sum(backfill_all(queue, queue.target("parts", "embedding"), 40)) == 41 * 9
    assert rows(db, QUEUED) == rows(
        db, "select jsonb_build_array(name, place)::text from parts order by name, place"
    )


@pytest.mark.parametrize("key_type", ["text", "numeric", "smallint", "size"])
def test_other_keys_are_enqueued_in_their_order(
    db: Database, queue: AdminQueue, key_type: LiteralString
) -> None:
    db.execute("create type size as enum ('2', '10', '1')")
    table = Table(db)
    table.create(key_type)
    for key in ("10", "1", "2"):
        table.insert(key, "text")
    table.watch()
    assert backfill_all(queue, queue.target("docs", "embedding"), 1) == [1, 1, 1, 0]
    assert rows(db, QUEUED) == rows(db, "select id::text from docs order by docs.id")


def test_an_interrupted_backfill_goes_on_where_it_was(
    db: Database, queue: AdminQueue, old: Target, connect: Connect
) -> None:
    queue.backfill(old, 10)
    with connect() as other:
        assert value(other, "select backfill_embeddings('docs', 'embedding', 10)") == 10
    assert rows(db, QUEUED) == [(str(key),) for key in range(1, 21)]
    assert backfill_all(queue, old, 10) == [5, 0]


def test_a_call_that_is_rolled_back_is_made_up_for(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    with db.transaction(force_rollback=True):
        db.execute("select backfill_embeddings('docs', 'embedding', 10)")
    assert backfill_all(queue, old, 10) == [10, 10, 5, 0]


def test_the_end_of_one_backfill_hides_nothing_from_the_next(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    assert [queue.backfill(old, 5) for _ in range(5)] == [
        5
    ] * 5  # interrupted before it saw the end
    embed_all(queue)
    db.execute("update docs set embedding = null where id = 3")
    assert backfill_all(queue, old, 5) == [1, 0]
    assert embed_all(queue) == ["text 3"]


def test_only_rows_without_vector_and_job_are_enqueued(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    db.execute("update docs set embedding = '[1,2,3]' where id > 6")
    db.execute("update docs set body = case when id > 1 then 'edited' end where id <= 4")
    [second] = claim(queue, 2)  # the first, without a text, is skipped at once
    queue.fail([second], "rejected", "too long")
    claim(queue, 1)
    before = rows(db, "select * from embedding_queue order by id")
    assert jobs(db) == [("1", "skipped"), ("2", "failed"), ("3", "processing"), ("4", "pending")]

    assert backfill_all(queue, old, 10) == [2, 0]
    assert rows(db, "select * from embedding_queue order by id limit 4") == before
    assert jobs(db)[4:] == [("5", "pending"), ("6", "pending")]


def test_vectors_that_were_cleared_by_hand_are_made_again(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    backfill_all(queue, old, 10)
    embed_all(queue)
    db.execute("update docs set embedding = null where id in (7, 9)")
    assert backfill_all(queue, old, 10) == [2, 0]
    assert embed_all(queue) == ["text 7", "text 9"]
    assert value(db, "select count(embedding) from docs") == 25


@pytest.mark.contract
def test_rows_outside_the_filter_are_left_alone(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    db.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'id % 5 = 0')")
    assert backfill_all(queue, old, 2) == [2, 2, 1, 0]
    assert rows(db, QUEUED) == [("5",), ("10",), ("15",), ("20",), ("25",)]


def test_live_edits_overtake_the_backfill(db: Database, queue: AdminQueue, old: Target) -> None:
    backfill_all(queue, old, 10)
    db.execute("insert into docs values (100, 'new')")
    db.execute("update docs set body = 'edited' where id = 20")
    assert {job.content for job in claim(queue, 3)} == {"new", "edited", "text 1"}


def test_a_backfill_does_not_hold_up_the_edit_of_another_table(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    backfill_all(queue, old, 10)
    notes = Table(db, name="notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    assert [job.content for job in claim(queue, 1)] == ["a note"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("batch", [5, 6, 100])
def test_a_row_that_somebody_writes_is_passed_over_and_found_later(
    db: Database, queue: AdminQueue, old: Target, connect: Connect, batch: int
) -> None:
    other = connect()
    with other.transaction():
        other.execute("select from docs where id in (2, 25) for update")
        assert sum(backfill_all(queue, old, batch)) == 23
    assert ("2", "pending") not in jobs(db)
    assert backfill_all(queue, old, batch) == [2, 0]
    assert len(jobs(db)) == 25


def test_a_row_skipped_in_one_round_is_found_in_the_next_before_the_end(
    queue: AdminQueue, old: Target, connect: Connect
) -> None:
    other = connect()
    with other.transaction():
        other.execute("select from docs where id = 2 for update")
        assert [queue.backfill(old, 6) for _ in range(4)] == [6, 6, 6, 6]
    assert backfill_all(queue, old, 6) == [1, 0]


def test_a_row_edited_while_the_backfill_runs_is_embedded_once(
    db: Database, queue: AdminQueue, old: Target, connect: Connect
) -> None:
    other = connect()
    with other.transaction():
        other.execute("update docs set body = 'edited' where id = 2")
        backfill_all(queue, old, 10)
    assert backfill_all(queue, old, 10) == [0]
    texts = embed_all(queue)
    assert len(texts) == 25
    assert "edited" in texts


def test_a_column_that_nobody_watches_cannot_be_backfilled(db: Database, old: Target) -> None:
    assert refusal(db, "select backfill_embeddings('docs', 'vector', 10)") == (
        "column vector of table docs is not watched",
        "Register it first: select watch_embeddings(table, source, embedding_column).",
    )


@pytest.mark.timeout(60)
def test_five_thousand_rows_go_in_batches_of_a_hundred(db: Database, queue: AdminQueue) -> None:
    table = Table(db)
    table.create("uuid")
    db.execute(
        "insert into docs select gen_random_uuid(), 'text ' || i from generate_series(1, 5000) i"
    )
    table.watch()
    found = []
    target = queue.target("docs", "embedding")
    while count := queue.backfill(target, 100):
        found.append(count)
        taken = claim(queue, 100)
        assert embed(queue, taken) == []
    assert found == [100] * 50
    assert value(db, "select count(embedding) from docs") == 5000
    assert rows(db, "select status, count(*) from embedding_queue group by 1") == [
        ("completed", 5000)
    ]


@pytest.mark.over_a_connection
@pytest.mark.parametrize("key", ["bigint", "text", "integer, org integer"])
def test_each_row_looks_up_its_own_job_whatever_the_statistics_say(db: Database, key: str) -> None:
    """Taken when the queue was empty, they make a join of both look cheap: it is quadratic."""
    columns = ", ".join(name for name in ("id", "org") if name == "id" or name in key)
    db.execute(
        sql.SQL("create table docs (id {}, body text, primary key ({}))").format(
            sql.SQL(key), sql.SQL(columns)
        )
    )
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    db.execute("analyze")
    db.execute(
        sql.SQL(
            "insert into docs ({}, body) select {}, 'text ' from generate_series(1, 5000) i"
        ).format(sql.SQL(columns), sql.SQL(columns.replace("id", "i").replace("org", "i % 9")))
    )
    [(condition,)] = rows(
        db, "select embedding.missing_sql(target, false) from embedding_targets as target"
    )
    plan = "\n".join(
        line
        for (line,) in db.execute(sql.SQL("explain select from docs where ") + sql.SQL(condition))
    )
    assert "Join" not in plan
    assert "embedding_queue_one_per_record" in plan


@pytest.mark.parametrize("sqlstate", ["22012", "42704", "40001", "57014", "ZZZZZ"])
def test_a_row_over_which_the_filter_raises_is_enqueued_and_stops_no_other(
    db: Database, queue: AdminQueue, old: Target, sqlstate: str
) -> None:
    create_poison(db, sqlstate)
    db.execute("update docs set body = 'poison' where id in (3, 20)")
    db.execute("delete from embedding_queue")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding',"
        " filter => 'public.poison(body) <> ''text 7''')"
    )
    assert backfill_all(queue, old, 10) == [10, 10, 4, 0]
    assert queue.estimate("test:model", None, None, missing=True)[0].row_count == 0
    assert len(embed_all(queue)) == 22
    assert rows(
        db, "select record_id, error_class from embedding_queue where status = 'failed' order by 1"
    ) == [("20", "unreadable"), ("3", "unreadable")]
    assert backfill_all(queue, old, 10) == [0]


@pytest.mark.contract
def test_a_filter_that_cannot_be_read_at_all_enqueues_nothing(
    db: Database, queue: AdminQueue, old: Target
) -> None:
    db.execute("update embedding_targets set filter = 'no_such_column'")
    with pytest.raises(WorkerError, match="column"):
        queue.backfill(old, 10)
    assert value(db, "select count(*) from embedding_queue") == 0
