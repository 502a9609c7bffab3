"""How far the columns are, what went wrong, and what is nearest to a vector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import LiteralString

import numpy as np
import pytest

from tests.conftest import Database, migrate, rows, value
from tests.integration.jobs import SCOPE, claim, insert
from tests.integration.tables import Table, embed, embed_all, refusal, store_passages
from worker.errors import WorkerError
from worker.queue import AdminQueue, Match, Target, TargetStatus
from worker.queue.data_api import DataApiQueue
from worker.queue.postgres import PostgresQueue


def status(queue: AdminQueue) -> TargetStatus:
    [found] = queue.status()
    return found


# -- status


def counts(queue: AdminQueue) -> tuple[int | None, int | None, bool | None]:
    found = status(queue)
    return found.passages, found.chunks, found.passages_exact


COUNT_DUE: LiteralString = "select count_due_embeddings()"


def test_a_table_without_rows_has_no_coverage(docs: Database, queue: AdminQueue) -> None:
    assert status(queue) == TargetStatus(
        table_name="docs",
        embedding_column="embedding",
        model=None,
        enabled=True,
        problem=None,
        rows=0,
        rows_exact=True,
        pending=0,
        processing=0,
        completed=0,
        failed=0,
        skipped=0,
        coverage=None,
        coverage_goal=None,
        passages=None,
        chunks=None,
        passages_exact=None,
        due=0,
        oldest_due=None,
        due_exact=True,
    )


def test_jobs_are_counted_by_status(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (0, null)")
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 10) i")
    completed = claim(queue, 4)  # the first of which is skipped
    embed(queue, completed)
    queue.fail(claim(queue, 2), "rejected", "too long")
    claim(queue, 1)
    found = status(queue)
    assert (found.rows, found.pending, found.processing) == (11, 4, 1)
    assert (found.completed, found.failed, found.skipped) == (3, 2, 1)
    assert found.due == 4
    assert found.coverage == 30.0


def test_rows_that_are_not_in_the_queue_count_against_the_coverage(
    db: Database, queue: AdminQueue
) -> None:
    Table(db).create()
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 8) i")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    assert status(queue).coverage == 0.0
    target = queue.target("docs", "embedding")
    queue.backfill(target, 6)
    assert status(queue).coverage == 0.0
    embed_all(queue)
    assert status(queue).coverage == 75.0
    queue.backfill(target, 6)
    embed_all(queue)
    assert status(queue).coverage == 100.0


def test_what_is_skipped_does_not_count_against_the_coverage(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, ''), (3, null)")
    embed_all(queue)
    assert (status(queue).skipped, status(queue).coverage) == (2, 100.0)
    docs.execute("delete from docs where id = 1")
    assert status(queue).coverage is None
    docs.execute("update docs set body = 'two' where id = 2")
    assert status(queue).coverage == 0.0


def test_rows_outside_the_filter_do_not_count(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'one', 0), (2, 'two', 1), (3, 'three', 1)")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 1')")
    embed_all(queue)
    assert (status(queue).rows, status(queue).coverage) == (2, 100.0)


def test_the_coverage_is_rounded_to_a_tenth_and_never_exceeds_100(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 3) i")
    embed(queue, claim(queue, 2))
    assert status(queue).coverage == 66.6
    embed_all(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("delete from docs where id = 1")
    assert (status(queue).rows, status(queue).completed, status(queue).coverage) == (2, 3, 100.0)
    docs.execute("delete from docs")
    assert status(queue).coverage is None


def test_the_oldest_due_is_that_of_the_jobs_that_wait(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 4) i")
    docs.execute(
        "update embedding_queue"
        " set available_at = now() + (record_id::integer - 3) * interval '1 hour'"
    )
    due_since = value(docs, "select available_at from embedding_queue where record_id = '1'")
    assert (status(queue).oldest_due, status(queue).due) == (due_since, 3)
    claim(queue, 3)
    assert (status(queue).oldest_due, status(queue).due) == (None, 0)


def test_a_lease_that_ran_out_is_due_again(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    claim(queue)
    assert (status(queue).due, queue.count_due(SCOPE), value(docs, COUNT_DUE)) == (0, 0, 0)
    docs.execute("update embedding_queue set lease_expires_at = now()")
    assert (status(queue).due, queue.count_due(SCOPE), value(docs, COUNT_DUE)) == (1, 1, 1)


def test_a_problem_is_shown_and_what_waits_for_it_is_not_due(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs values (1, 'one', 0)")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 0')")
    docs.execute("alter table docs rename views to visits")
    assert claim(queue) == []
    found = status(queue)
    assert "column" in str(found.problem)
    assert (found.pending, found.rows, found.coverage) == (1, None, None)
    assert (queue.count_due(SCOPE), value(docs, COUNT_DUE)) == (0, 0)


def test_due_jobs_are_counted_by_table_and_column(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', 'views', 'other', dimensions => 3)")
    insert(docs, 3)
    scopes = [SCOPE, replace(SCOPE, table="docs", column="other"), replace(SCOPE, table="notes")]
    assert [queue.count_due(scope) for scope in scopes] == [6, 3, 0]
    docs.execute("update embedding_targets set enabled = false where embedding_column = 'other'")
    assert [queue.count_due(scope) for scope in scopes] == [3, 0, 0]


def test_where_due_jobs_would_take_long_to_count_the_pending_ones_are_taken(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 11_050)
    docs.execute(
        "update embedding_queue set available_at = now() + interval '1 h'"
        " where record_id::integer <= 1000"
    )
    assert not status(queue).due_exact
    assert queue.count_due(SCOPE) == 11_050


def refuse_to_count(db: Database, function: LiteralString) -> None:
    """Replace what counts due jobs, or rows, by a function that raises."""
    counted: LiteralString = (
        "count_due(target_id integer, pending bigint, out due bigint,"
        " out oldest_due timestamptz, out due_exact boolean)"
        if function == "count_due"
        else "passage_count(target_id integer, out passages bigint, out chunks bigint,"
        " out exact boolean)"
        if function == "passage_count"
        else "row_count(target_id integer, jobs bigint, out rows bigint, out exact boolean)"
    )
    db.execute(
        "create or replace function embedding." + counted + " language plpgsql volatile"
        " as $$ begin raise exception 'counted'; end $$"
    )


def test_due_jobs_are_counted_only_for_who_asks_for_them(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    refuse_to_count(docs, "count_due")
    with pytest.raises(WorkerError, match="counted"):
        queue.status()
    assert [(found.rows, found.completed) for found in queue.coverage()] == [(2, 0)]
    assert (queue.count_pending(), queue.progress().pending) == (2, 2)


def test_rows_are_counted_only_for_who_asks_for_them(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    refuse_to_count(docs, "row_count")
    with pytest.raises(WorkerError, match="counted"):
        queue.coverage()
    assert queue.count_due(SCOPE) == 2
    assert rows(docs, "select pending, due from embedding_progress") == [(2, 2)]


def test_passages_and_stored_chunks_are_counted(manuals: Database, queue: AdminQueue) -> None:
    assert counts(queue) == (0, 0, True)
    store_passages(manuals, 1, "one", "two", "one")
    store_passages(manuals, 2, "one")
    manuals.execute("insert into docs_chunks values (2, 'staged', 'three', null, '[1,2,3]')")
    assert counts(queue) == (4, 4, True)
    manuals.execute("delete from docs where id = 1")
    assert counts(queue) == (1, 2, True)


def test_passages_are_counted_only_for_who_asks_for_them(
    manuals: Database, queue: AdminQueue
) -> None:
    refuse_to_count(manuals, "passage_count")
    with pytest.raises(WorkerError, match="counted"):
        queue.status()
    assert [found.rows for found in queue.coverage()] == [2]


def test_many_passages_are_estimated(manuals: Database, queue: AdminQueue) -> None:
    manuals.execute("alter table docs_chunk_places disable trigger all")
    manuals.execute(
        "insert into docs_chunk_places (id, position, hash, first_char, last_char)"
        " select 1, i, '', i, i + 1 from generate_series(1, 600000) i"
    )
    manuals.execute("analyze docs_chunk_places")
    passages, chunks, exact = counts(queue)
    assert passages == pytest.approx(600_000, rel=0.1)
    assert (chunks, exact) == (0, False)


def test_missing_tables_of_chunks_do_not_hide_the_status(
    manuals: Database, queue: AdminQueue
) -> None:
    manuals.execute("drop table docs_chunks cascade")
    assert (status(queue).rows, *counts(queue)) == (2, None, None, False)


def test_a_table_that_is_gone_does_not_hide_the_others(docs: Database, queue: AdminQueue) -> None:
    notes = Table(docs, "app", "notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    docs.execute("drop table docs")
    assert [(found.table_name, found.rows) for found in queue.status()] == [
        ("app.notes", 1),
        ("docs", None),
    ]


def test_a_filter_that_fails_does_not_hide_the_status(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'one', 0)")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => '1 / views = 1')")
    assert status(queue).rows is None
    docs.execute(
        "create function strict(docs) returns boolean language plpgsql"
        " as $$ begin raise exception 'never'; end $$"
    )
    docs.execute(
        "select watch_embeddings('docs', 'body', 'embedding', filter => 'public.strict(docs)')"
    )
    assert status(queue).rows is None
    docs.execute(
        "create or replace function strict(docs) returns boolean language plpgsql"
        " as $$ begin assert false; end $$"
    )
    assert status(queue).rows is None


def test_what_is_due_can_be_counted_by_table_and_column(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', 'views', 'other', dimensions => 3)")
    notes = Table(docs, name="notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    docs.execute("update embedding_targets set enabled = false where embedding_column = 'other'")
    assert rows(
        docs,
        "select count_due_embeddings(), count_due_embeddings('docs'),"
        " count_due_embeddings('docs', 'embedding'), count_due_embeddings('docs', 'other'),"
        " count_due_embeddings(only_column => 'embedding')",
    ) == [(3, 2, 2, 0, 3)]


def test_failures_are_counted_by_class_with_the_latest_reason(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 5) i")
    queue.fail(claim(queue, 1), "rejected", "too long: 9000 tokens")
    queue.fail(claim(queue, 1), "rejected", "too long: 8000 tokens")
    queue.fail(claim(queue, 1), "bad_vector", "a vector of zeros")
    docs.execute("update embedding_targets set max_attempts = 1")
    docs.execute("update embedding_queue set abandoned_claims = 1 where record_id = '4'")
    claim(queue, 1)
    assert [
        (found.error_class, found.failed, found.latest_message)
        for found in queue.overview().failures
    ] == [
        ("rejected", 2, "too long: 8000 tokens"),
        ("bad_vector", 1, "a vector of zeros"),
        ("no_answer", 1, "claimed 1 times, never answered: it probably kills its worker"),
    ]
    queue.requeue(status="failed")
    assert queue.overview().failures == []


# -- search


def store(table: Table, queue: AdminQueue) -> Target:
    """A watched table with three rows whose vectors are known, and one without a vector."""
    table.create()
    name = table.watch()
    for key, vector in enumerate(["[1,0,0]", "[3,4,0]", "[-2,0,0]", None], start=1):
        table.insert(key, f"text {key}")
        table.write(key, vector)
    return queue.target(name, table.vector)


NEAREST = [Match("1", "text 1", 0.0), Match("2", "text 2", 0.4), Match("3", "text 3", 2.0)]


def search(queue: AdminQueue, target: Target, limit: int = 10) -> list[Match]:
    return [
        Match(match.record_id, match.content, round(match.distance or 0, 6))
        for match in queue.search(target, np.array([5, 0, 0], dtype=np.float32), limit)
    ]


@pytest.mark.parametrize(
    "names",
    [
        {},
        {
            "schema": "My-Schema",
            "name": "Weird Table",
            "key": "Id",
            "text": "Text Col",
            "vector": "Emb Col",
        },
        {"name": "order", "key": "select", "text": "from", "vector": "where"},
        {"name": "100%", "key": "it's", "text": "%s", "vector": 'a"b'},
        {"name": "target", "key": "record_id", "text": "content", "vector": "distance"},
        {"name": "query", "key": "matches", "text": "watched_table", "vector": "query"},
    ],
)
def test_the_nearest_rows_come_first(
    db: Database, queue: AdminQueue, names: dict[str, str]
) -> None:
    target = store(Table(db, **names), queue)
    if isinstance(queue, DataApiQueue) and "schema" in names:  # none that its role may look into
        db.execute('grant usage on schema "My-Schema" to service_role')
        db.execute('grant select on all tables in schema "My-Schema" to service_role')
    assert search(queue, target) == NEAREST
    assert search(queue, target, limit=2) == NEAREST[:2]


def test_halfvecs_are_searched_as_well(db: Database, queue: AdminQueue) -> None:
    target = store(Table(db), queue)
    db.execute("alter table docs alter column embedding type halfvec(3)")
    assert search(queue, target) == NEAREST


def test_rows_outside_the_filter_are_not_found(db: Database, queue: AdminQueue) -> None:
    store(Table(db), queue)
    db.execute("select watch_embeddings('docs', $$body || '!'$$, 'embedding', filter => 'id <> 2')")
    assert search(queue, queue.target("docs", "embedding")) == [
        Match("1", "text 1!", 0.0),
        Match("3", "text 3!", 2.0),
    ]


def test_an_index_serves_the_search(db: Database, queue: AdminQueue) -> None:
    target = store(Table(db), queue)
    db.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    db.execute("set enable_seqscan = off")
    assert search(queue, target) == NEAREST
    db.execute("select search_embeddings('docs', 'embedding', '[1,2,3]')")
    db.execute("select pg_stat_force_next_flush()")
    assert value(
        db, "select idx_scan > 0 from pg_stat_user_indexes where indexrelname ~ 'embedding_idx'"
    )


def test_an_exact_search_uses_no_index(db: Database, queue: AdminQueue) -> None:
    target = store(Table(db), queue)
    db.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    db.execute("set enable_seqscan = off")
    vector = np.array([5, 0, 0], dtype=np.float32)
    assert [match.record_id for match in queue.search(target, vector, 2, exact=True)] == ["1", "2"]
    db.execute("select search_embeddings('docs', 'embedding', '[1,2,3]', exact => true)")
    db.execute("select pg_stat_force_next_flush()")
    assert (
        value(db, "select idx_scan from pg_stat_user_indexes where indexrelname ~ 'embedding_idx'")
        == 0
    )


@pytest.mark.parametrize(
    ("index", "has"),
    [
        ("hnsw (embedding vector_cosine_ops)", True),
        ("ivfflat (embedding vector_cosine_ops)", True),
        ("hnsw (embedding vector_l2_ops)", False),
        ("hnsw ((embedding::halfvec(3)) halfvec_cosine_ops)", False),
        ("btree (body)", False),
    ],
)
def test_an_index_for_the_distance_of_searches_is_known(
    db: Database, queue: AdminQueue, index: LiteralString, has: bool
) -> None:
    target = store(Table(db), queue)
    assert not queue.has_vector_index(target)
    db.execute("create index mine on docs using " + index)
    assert queue.has_vector_index(target) is has
    db.execute("update pg_index set indisvalid = false where indexrelid = 'mine'::regclass")
    assert not queue.has_vector_index(target)


def test_records_that_no_search_can_find_are_missing(db: Database, queue: AdminQueue) -> None:
    target = store(Table(db), queue)
    asked = ["1", "2", "4", "9", "no number", ""]
    assert queue.missing(target, asked) == {"4", "9", "no number", ""}
    assert queue.missing(target, []) == set()
    db.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'id <> 2')")
    assert queue.missing(queue.target("docs", "embedding"), asked) == set(asked) - {"1"}


def test_records_of_a_composite_key_are_found_by_their_id(db: Database, queue: AdminQueue) -> None:
    db.execute(
        "create table parts (lang text, id bigint, body text, embedding vector(3),"
        " primary key (lang, id))"
    )
    db.execute("insert into parts values ('de', 1, 'ein Text', '[1,0,0]')")
    db.execute("select watch_embeddings('parts', 'body', 'embedding')")
    target = queue.target("parts", "embedding")
    [match] = queue.search(target, np.array([1, 0, 0], dtype=np.float32), 1)
    assert match.record_id == '["de", 1]'
    assert queue.missing(target, [match.record_id, '["de", 2]']) == {'["de", 2]'}


def test_a_search_has_the_rights_of_its_caller(docs: Database) -> None:
    docs.execute("grant execute on function search_embeddings to embedding_worker")
    docs.execute("set role embedding_worker")
    assert (
        "permission denied"
        in (refusal(docs, "select * from search_embeddings('docs', 'embedding', '[1,2,3]')")[0])
    )


def test_a_search_in_a_column_that_nobody_watches_is_refused(docs: Database) -> None:
    assert refusal(docs, "select * from search_embeddings('docs', 'other', '[1,2,3]')") == (
        "column other of table docs is not watched",
        "Register it first: select watch_embeddings(table, source, embedding_column).",
    )


@pytest.fixture
def with_extensions(
    empty_db: Database, empty_database_url: str
) -> Iterator[tuple[Database, PostgresQueue]]:
    """A database with pgvector in the schema `extensions`, as on Supabase."""
    migrate(empty_database_url, "create schema extensions")
    with PostgresQueue(empty_database_url, "tests") as queue:
        yield empty_db, queue


def test_vectors_are_searched_with_pgvector_in_another_schema(
    with_extensions: tuple[Database, PostgresQueue],
) -> None:
    db, queue = with_extensions
    target = store(Table(db, "app", "docs"), queue)
    assert search(queue, target) == NEAREST
    db.execute("alter table app.docs alter column embedding type extensions.halfvec(3)")
    assert search(queue, target) == NEAREST
