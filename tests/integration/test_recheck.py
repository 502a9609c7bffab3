"""A text that changes without a write is found, and only such texts are embedded again."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import claim, insert
from tests.integration.tables import Connect, embed_all, jobs
from worker.errors import Busy
from worker.queue import AdminQueue


def recheck(
    queue: AdminQueue, table: str | None = None, *, batch: int = 2000, dry_run: bool = False
) -> tuple[int, int]:
    """How many jobs were compared in all of the queue, and how many of them differ."""
    checked = changed = 0
    after: int | None = 0
    while after is not None:
        stretch = queue.recheck(table, None, after, batch, dry_run=dry_run)
        checked, changed = checked + stretch.checked, changed + stretch.changed
        after = stretch.looked_to
    return checked, changed


def sampled(db: Database) -> list[tuple[str, str, str]]:
    """What doctor finds by sampling: the check, the column and the cause."""
    return rows(db, "select check_name, subject, cause from sample_embeddings()")


def changed_texts(differ: int, looked: int) -> list[tuple[str, str, str]]:
    cause = f"{differ} of {looked} texts differ from what was embedded, and no trigger saw it"
    return [("texts_changed", "docs.embedding", cause)]


def lost_vectors(lost: int, looked: int) -> list[tuple[str, str, str]]:
    cause = f"{lost} of {looked} vectors of the sample are lost"
    return [("vectors_damaged", "docs.embedding", cause)]


@pytest.fixture
def moods(db: Database, queue: AdminQueue) -> Database:
    """Documents whose text is made of an enum, by a generated column, and by a function."""
    db.execute("create type mood as enum ('calm', 'angry')")
    db.execute("create schema app")
    db.execute(
        "create function app.shout(text) returns text immutable language sql"
        " as $$ select upper($1) $$"
    )
    db.execute(
        "create table docs (id bigint primary key, body text, mood mood default 'calm',"
        " loud text generated always as (body || '!') stored, embedding vector(3))"
    )
    db.execute(
        "select watch_embeddings('docs', $$mood::text || ' ' || loud || ' ' || app.shout(body)$$,"
        " 'embedding')"
    )
    db.execute(
        "insert into docs values (1, 'one', 'calm'), (2, 'two', 'angry'), (3, 'three', 'calm')"
    )
    assert embed_all(queue) == ["angry two! TWO", "calm one! ONE", "calm three! THREE"]
    return db


def test_what_did_not_change_costs_nothing(moods: Database, queue: AdminQueue) -> None:
    assert recheck(queue) == (3, 0)
    assert sampled(moods) == []
    assert jobs(moods) == [("1", "completed"), ("2", "completed"), ("3", "completed")]


def test_a_renamed_enum_value_is_found_where_it_is_used(moods: Database, queue: AdminQueue) -> None:
    moods.execute("alter type mood rename value 'angry' to 'cross'")
    assert sampled(moods) == changed_texts(1, 3)
    assert recheck(queue, dry_run=True) == (3, 1)
    assert embed_all(queue) == []
    assert recheck(queue) == (3, 1)
    assert embed_all(queue) == ["cross two! TWO"]
    assert sampled(moods) == []


def test_another_expression_of_a_generated_column_is_found(
    moods: Database, queue: AdminQueue
) -> None:
    if moods.info.server_version < 170000:
        pytest.skip("before Postgres 17 a generated column keeps its expression")
    moods.execute("alter table docs alter loud set expression as (body || '?')")
    assert recheck(queue) == (3, 3)
    assert embed_all(queue) == ["angry two? TWO", "calm one? ONE", "calm three? THREE"]


def test_a_replaced_function_is_found(moods: Database, queue: AdminQueue) -> None:
    moods.execute(
        "create or replace function app.shout(text) returns text immutable language sql"
        " as $$ select case when $1 = 'two' then 'TWO' else initcap($1) end $$"
    )
    assert sampled(moods) == changed_texts(2, 3)
    assert recheck(queue) == (3, 2)
    assert embed_all(queue) == ["calm one! One", "calm three! Three"]


@pytest.mark.parametrize(
    ("change", "embedded"),
    [
        ("update docs set body = 'edited' where id = 1", ["edited"]),
        ("update docs set body = ' ' where id = 1", []),
        ("update docs set embedding = null where id = 1", ["text 1"]),
        ("delete from docs where id = 1", []),
        ("update docs set id = 9 where id = 1", []),
    ],
)
@pytest.mark.parametrize(
    "hidden",
    ["set session_replication_role = replica", "alter table docs disable trigger user"],
)
def test_a_write_that_no_trigger_saw_is_found(
    docs: Database,
    queue: AdminQueue,
    hidden: LiteralString,
    change: LiteralString,
    embedded: list[str],
) -> None:
    insert(docs, 2)
    embed_all(queue)
    docs.execute(hidden)
    docs.execute(change)
    docs.execute("reset session_replication_role")
    docs.execute("alter table docs enable trigger user")
    is_lost = "embedding = null" in change
    assert sampled(docs) == (lost_vectors(1, 2) if is_lost else changed_texts(1, 2))
    assert recheck(queue) == (2, 1)
    assert embed_all(queue) == embedded
    assert recheck(queue)[1] == 0
    left = rows(docs, "select id from docs where embedding is not null and body like 'text%%'")
    assert len(left) == 1 + is_lost + ("id = 9" in change)


def test_lost_vectors_and_changed_texts_are_two_problems_with_a_cure_each(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 6)
    embed_all(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set embedding = null where id in (1, 2, 3)")
    docs.execute("update docs set body = 'edited' where id in (3, 4)")  # 3 is of both
    docs.execute("alter table docs enable trigger user")
    assert sampled(docs) == lost_vectors(2, 6) + changed_texts(2, 6)
    hints = rows(docs, "select level, split_part(hint, '`', 2) from sample_embeddings()")
    assert hints == [
        ("problem", "worker verify docs --column embedding --repair"),
        ("problem", "worker recheck --table docs --column embedding"),
    ]
    target = queue.target("docs", "embedding")
    damaged = [row.record_id for row in queue.damaged(target, None).rows]
    assert damaged == ["1", "2"]
    queue.requeue_damaged(target, damaged)
    assert sampled(docs) == changed_texts(2, 4)
    assert embed_all(queue) == ["text 1", "text 2"]
    recheck(queue)
    assert embed_all(queue) == ["edited", "edited"]
    assert sampled(docs) == []


def test_rows_that_a_replaced_filter_lets_in_or_leaves_out_are_found(
    db: Database, queue: AdminQueue
) -> None:
    db.execute(
        "create function public.is_public(bigint) returns boolean immutable language sql"
        " as $$ select $1 < 3 $$"
    )
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " filter => 'public.is_public(id)')"
    )
    insert(db, 3)
    assert embed_all(queue) == ["text 1", "text 2"]
    db.execute(
        "create or replace function public.is_public(bigint) returns boolean immutable"
        " language sql as $$ select $1 > 1 $$"
    )
    assert recheck(queue) == (2, 1)
    assert queue.backfill(queue.target("docs", "embedding"), 100) == 1
    assert embed_all(queue) == ["text 3"]
    assert rows(db, "select id from docs where embedding is not null order by 1") == [(2,), (3,)]


def test_a_text_that_was_empty_is_embedded_once_it_is_not(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs values (1, ' '), (2, null), (3, 'three')")
    embed_all(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set body = 'one' where id = 1")
    docs.execute("alter table docs enable trigger user")
    assert recheck(queue) == (3, 1)
    assert embed_all(queue) == ["one"]


def test_a_row_that_cannot_be_read_stops_no_other(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', '(12 / views)::text || body', 'embedding')")
    docs.execute("insert into docs select i, 'text', 1 from generate_series(1, 9) i")
    embed_all(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set views = 0 where id = 4")
    docs.execute("update docs set views = 2 where id = 7")
    docs.execute("alter table docs enable trigger user")
    assert sampled(docs) == changed_texts(2, 9)
    assert recheck(queue) == (9, 2)
    assert embed_all(queue) == ["6text"]
    assert rows(docs, "select record_id, error_class from embedding_queue where status = 'failed'")


def test_a_vector_of_another_model_is_found_and_replaced(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 3)
    embed_all(queue)
    docs.execute("update embedding_queue set model = 'other:model' where record_id = '2'")
    assert ("several_models", "docs.embedding") in [found[:2] for found in sampled(docs)]
    [cause] = [cause for check, _, cause in sampled(docs) if check == "several_models"]
    assert cause.endswith("test:model (2), other:model (1)")
    assert recheck(queue) == (3, 1)
    assert embed_all(queue) == ["text 2"]
    assert sampled(docs) == []


@pytest.mark.contract
def test_it_goes_on_where_it_was_and_narrows_down(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 7)
    embed_all(queue)
    docs.execute("update embedding_queue set content_hash = sha256('x') where id % 2 = 0")
    changed = value(docs, "select count(*) from embedding_queue where id % 2 = 0")
    assert recheck(queue, "elsewhere") == (0, 0)
    first = queue.recheck("docs", "embedding", 0, 3, dry_run=True)
    assert (first.checked, first.looked_to) == (
        3,
        value(docs, "select min(id) + 2 from embedding_queue"),
    )
    assert recheck(queue, batch=2) == (7, changed)


def test_jobs_in_other_states_are_left_alone(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 3)
    claim(queue, 1)
    docs.execute(
        "update embedding_queue set status = 'failed', error_message = 'x' where record_id = '3'"
    )
    before = rows(docs, "select * from embedding_queue order by id")
    assert recheck(queue) == (0, 0)
    assert rows(docs, "select * from embedding_queue order by id") == before


@pytest.mark.contract
def test_it_never_waits(docs: Database, queue: AdminQueue, connect: Connect) -> None:
    insert(docs, 2)
    embed_all(queue)
    docs.execute("update embedding_queue set content_hash = sha256('x')")
    other = connect()
    with other.transaction():
        other.execute("select from embedding_queue where record_id = '1' for update")
        other.execute("update docs set body = 'edited' where id = 2")
        assert recheck(queue) == (2, 0)
    assert embed_all(queue) == ["edited"]
    with other.transaction():
        other.execute("lock table docs")
        with pytest.raises(Busy, match="table docs is locked"):
            recheck(queue)
        assert sampled(docs) == []


@pytest.mark.parametrize(
    "gone",
    ["alter table docs rename body to text", "drop table docs", "alter table docs drop embedding"],
)
def test_a_table_that_is_not_what_it_was_is_passed_over(
    docs: Database, queue: AdminQueue, gone: LiteralString
) -> None:
    insert(docs, 2)
    embed_all(queue)
    docs.execute(gone)
    assert recheck(queue) == (0, 0)
    assert sampled(docs) == []
    assert jobs(docs) == [("1", "completed"), ("2", "completed")]
