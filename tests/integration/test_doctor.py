"""Each thing that diagnose_embeddings finds, made to happen, and a healthy database."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, Server, rows, value
from tests.integration.jobs import insert
from tests.integration.tables import Table, acting_as, create_role, embed_all
from worker.queue import AdminQueue


def diagnosis(db: Database) -> list[tuple[str, str, str]]:
    """Level, check and subject of all that is found."""
    return rows(db, "select level, check_name, subject from diagnose_embeddings()")


def explanation(db: Database, check: str) -> tuple[str, str]:
    """Cause and hint of the only finding of a check."""
    [found] = rows(db, "select cause, hint from diagnose_embeddings() where check_name = %s", check)
    return found


def run(db: Database, statement: str) -> None:
    """Run a statement that a hint quotes."""
    db.execute(sql.SQL(statement))


def quoted(hint: str) -> list[str]:
    return hint.split("`")[1::2]


def set_all(db: Database, status: LiteralString, count: int) -> None:
    """The jobs of `count` new rows of `docs`, all of a status."""
    insert(db, count)
    db.execute("update embedding_queue set status = %s, error_message = 'x'", [status])
    # Otherwise autovacuum may be behind, which is a finding of its own.
    db.execute("select pg_stat_force_next_flush()")
    db.execute("vacuum embedding_queue")


INDEX: LiteralString = "create index docs_index on docs using hnsw (embedding vector_cosine_ops)"


# -- nothing is wrong


def test_a_healthy_database_has_nothing_to_say(docs: Database) -> None:
    set_all(docs, "completed", 20)
    docs.execute(INDEX)
    assert diagnosis(docs) == []


def test_a_sample_of_a_healthy_database_has_nothing_to_say(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 120)
    embed_all(queue)
    with acting_as(docs, "embedding_worker"):
        assert rows(docs, "select * from sample_embeddings()") == []


def test_a_sample_is_as_large_as_asked_for(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 120)
    embed_all(queue)
    docs.execute("update embedding_queue set content_hash = sha256('x')")
    sampled: LiteralString = "select cause from sample_embeddings"
    assert value(docs, sampled + "()").startswith("100 of 100 texts differ")
    assert value(docs, sampled + "(7)").startswith("7 of 7 texts differ")


def test_a_sample_of_slow_texts_ends_after_a_second(docs: Database, queue: AdminQueue) -> None:
    docs.execute(
        "create function public.slow(text) returns text immutable language sql"
        " as $$ select $1 from pg_sleep(0.05) $$"
    )
    insert(docs, 60)
    embed_all(queue)
    docs.execute(
        "update embedding_targets set source = 'public.slow(body)';"
        " update embedding_queue set content_hash = sha256('x')"
    )
    [(cause,)] = rows(docs, "select cause from sample_embeddings()")
    differ, looked = re.findall(r"\d+", cause)
    assert differ == looked
    assert 0 < int(looked) < 60


def test_a_worker_may_ask(docs: Database) -> None:
    docs.execute("drop table docs")
    with acting_as(docs, "embedding_worker"):
        assert diagnosis(docs) == [("problem", "table_missing", "docs.embedding")]


def test_a_database_where_nothing_is_watched_says_so(db: Database) -> None:
    assert diagnosis(db) == [("note", "no_targets", "embedding_targets")]


# -- the session


def test_a_database_that_takes_no_writes(docs: Database, server: Server, database: str) -> None:
    name = sql.Identifier(database)
    docs.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(name))
    with psycopg.connect(server.direct_url_of(database), autocommit=True) as session:
        assert diagnosis(session) == [("problem", "read_only", database)]
        hint = explanation(session, "read_only")[1]
        session.execute("set default_transaction_read_only = off")
        run(session, quoted(hint)[0])
    with psycopg.connect(server.direct_url_of(database), autocommit=True) as session:
        assert diagnosis(session) == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_session_whose_transactions_are_isolated_too_strictly(docs: Database, level: str) -> None:
    docs.execute("select set_config('default_transaction_isolation', %s, false)", [level])
    assert diagnosis(docs) == [("warning", "isolation", "postgres")]
    assert level in explanation(docs, "isolation")[0]


# -- the extension


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("0.6.2", "problem"),
        ("0.7.0", "warning"),
        ("0.8.3", "warning"),
        ("0.8", "warning"),
        ("0.8.4", None),
        ("0.8.10", None),
        ("0.10.0-dev", None),
        ("1.0", None),
        ("unpackaged", None),
    ],
)
def test_an_old_pgvector(docs: Database, version: str, level: str | None) -> None:
    docs.execute("update pg_extension set extversion = %s where extname = 'vector'", [version])
    found = [(level, "vector_version", f"vector {version}")] if level else []
    assert diagnosis(docs) == found


# -- the targets


def test_a_table_that_is_gone_does_not_hide_the_others(docs: Database) -> None:
    notes = Table(docs, "app", "Notes of me")
    notes.create()
    notes.watch()
    docs.execute("drop table docs")
    docs.execute('drop trigger embedding_insert_2 on app."Notes of me"')
    assert diagnosis(docs) == [
        ("problem", "triggers_missing", 'app."Notes of me".embedding'),
        ("problem", "table_missing", "docs.embedding"),
    ]
    assert explanation(docs, "table_missing") == (
        "table public.docs no longer exists",
        "Run `worker unwatch` for the column, or `worker watch` once the table is back.",
    )
    docs.execute("drop schema app cascade")
    assert [check for _, check, _ in diagnosis(docs)] == ["table_missing"] * 2


def test_a_table_that_was_renamed_is_known_again(docs: Database) -> None:
    docs.execute("alter table docs rename to pages")
    assert diagnosis(docs) == [("problem", "table_missing", "docs.embedding")]
    assert explanation(docs, "table_missing") == (
        "table public.docs no longer exists, it is called public.pages now",
        "Run `worker watch` for the column of public.pages.",
    )
    docs.execute("select watch_embeddings('pages', 'body', 'embedding')")
    assert diagnosis(docs) == []


def test_a_target_that_is_set_aside(docs: Database) -> None:
    docs.execute("update embedding_targets set problem = 'column body does not exist'")
    assert diagnosis(docs) == [("problem", "suspended", "docs.embedding")]
    assert explanation(docs, "suspended")[0] == "column body does not exist"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("type vector(4)", "holds 4 dimensions and was watched with 3"),
        ("type vector", "holds any dimensions and was watched with 3"),
        ("type text", "is of type text and not a vector"),
        (None, "is gone"),
    ],
)
def test_a_column_that_changed(docs: Database, change: LiteralString | None, cause: str) -> None:
    docs.execute(
        "alter table docs alter column embedding " + change
        if change
        else "alter table docs drop column embedding"
    )
    assert diagnosis(docs) == [("problem", "column_changed", "docs.embedding")]
    assert explanation(docs, "column_changed")[0] == f"column docs.embedding {cause}"


# -- their triggers


@pytest.mark.parametrize("event", ["insert", "update", "delete", "truncate"])
def test_a_trigger_that_is_missing(docs: Database, event: LiteralString) -> None:
    docs.execute(f"drop trigger embedding_{event}_1 on docs")
    assert diagnosis(docs) == [("problem", "triggers_missing", "docs.embedding")]
    cause, hint = explanation(docs, "triggers_missing")
    assert cause == f"table docs lacks embedding_{event}_1, so changes go unseen"
    run(docs, quoted(hint)[-1])
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert diagnosis(docs) == []


@pytest.mark.parametrize(
    "change",
    [
        "disable trigger user",
        "disable trigger embedding_delete_1",
        "disable trigger zz_embedding_clear_1",
        "enable replica trigger embedding_insert_1",
    ],
)
def test_a_trigger_that_is_disabled(docs: Database, change: LiteralString) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', on_change => 'clear')")
    docs.execute("alter table docs " + change)
    assert diagnosis(docs) == [("problem", "triggers_disabled", "docs.embedding")]
    _, hint = explanation(docs, "triggers_disabled")
    alter, _, update = quoted(hint)
    run(docs, alter)
    run(docs, update)
    assert diagnosis(docs) == []


def test_a_trigger_that_always_fires_is_fine(docs: Database) -> None:
    docs.execute("alter table docs enable always trigger embedding_delete_1")
    assert diagnosis(docs) == []


# -- their indexes


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("vector(2001)", "Make it a halfvec(2001)."),
        ("vector(4001)", "Use a model, or a width of it, of no more than 4000 dimensions"),
        ("halfvec(4001)", "Use a model, or a width of it, of no more than 4000 dimensions"),
        ("vector(2000)", None),
        ("halfvec(4000)", None),
        ("vector", None),
    ],
)
def test_more_dimensions_than_an_index_takes(
    db: Database, column: LiteralString, hint: str | None
) -> None:
    Table(db).create()
    db.execute("alter table docs add column embedding " + column)
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    if hint is None:
        assert diagnosis(db) == []
    else:
        assert diagnosis(db) == [("warning", "dimensions_above_index", "docs.embedding")]
        assert explanation(db, "dimensions_above_index")[1].startswith(hint)


def test_an_index_over_a_narrower_expression_will_do(db: Database) -> None:
    Table(db).create()
    db.execute("alter table docs add column embedding vector(2001)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute("create index on docs using hnsw ((embedding::halfvec(2001)) halfvec_cosine_ops)")
    assert diagnosis(db) == []


def test_an_index_that_is_invalid(docs: Database) -> None:
    docs.execute(INDEX)
    docs.execute("update pg_index set indisvalid = false where indexrelid = 'docs_index'::regclass")
    assert diagnosis(docs) == [("problem", "index_invalid", "public.docs_index")]
    [drop] = quoted(explanation(docs, "index_invalid")[1])
    assert drop == "drop index concurrently public.docs_index"
    run(docs, drop)
    assert diagnosis(docs) == []


def test_an_invalid_index_of_another_column_is_none_of_ours(docs: Database) -> None:
    docs.execute("create index docs_index on docs (body)")
    docs.execute("update pg_index set indisvalid = false where indexrelid = 'docs_index'::regclass")
    assert diagnosis(docs) == []


def test_an_index_that_is_being_built_is_not_invalid(docs: Database, server: Server) -> None:
    url = server.direct_url_of(docs.info.dbname)
    with psycopg.connect(url) as writer, psycopg.connect(url, autocommit=True) as builder:
        writer.execute("insert into docs values (1, 'holds the build up')")
        builder.pgconn.send_query(INDEX.replace("index", "index concurrently", 1).encode())
        deadline = time.monotonic() + 20
        while not rows(
            docs, "select from pg_index where not indisvalid and indrelid = 'docs'::regclass"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert diagnosis(docs) == []
        with acting_as(docs, "embedding_worker"):
            assert diagnosis(docs) == []
        writer.rollback()
        while builder.pgconn.get_result():
            pass
    assert diagnosis(docs) == []


def test_an_index_that_is_kept_during_a_backfill(docs: Database) -> None:
    docs.execute(INDEX)
    insert(docs, 1000)
    assert diagnosis(docs) == []
    docs.execute("insert into docs values (1001, 'one more')")
    assert diagnosis(docs) == [("warning", "index_during_backfill", "public.docs_index")]
    assert explanation(docs, "index_during_backfill")[0].startswith("1001 jobs of docs.embedding")
    docs.execute("drop index docs_index")
    assert diagnosis(docs) == []


def test_a_tenth_of_a_table_that_is_pending_is_no_backfill(docs: Database) -> None:
    docs.execute(INDEX)
    set_all(docs, "completed", 10_010)
    docs.execute("update embedding_queue set status = 'pending' where record_id::integer <= 1001")
    assert diagnosis(docs) == []
    docs.execute("update embedding_queue set status = 'pending' where record_id = '1002'")
    assert diagnosis(docs) == [("warning", "index_during_backfill", "public.docs_index")]


def test_a_timeout_that_would_end_the_build_of_an_index(docs: Database) -> None:
    set_all(docs, "completed", 10_000)
    docs.execute("set statement_timeout = '2min'")
    assert diagnosis(docs) == []
    docs.execute("insert into docs values (0, 'one more')")
    docs.execute("update embedding_queue set status = 'completed' where status = 'pending'")
    assert diagnosis(docs) == [("warning", "timeout_too_short", "docs.embedding")]
    assert "statement_timeout of 2min" in explanation(docs, "timeout_too_short")[0]
    for enough in ("10min", "0"):
        docs.execute("select set_config('statement_timeout', %s, false)", [enough])
        assert diagnosis(docs) == []
    docs.execute(INDEX)
    docs.execute("set statement_timeout = '2min'")
    assert diagnosis(docs) == []


# -- the queue


def test_jobs_that_failed(docs: Database) -> None:
    set_all(docs, "failed", 1)
    assert diagnosis(docs) == [("note", "failed_jobs", "docs.embedding")]
    assert explanation(docs, "failed_jobs")[0] == "1 job failed"
    docs.execute("insert into docs values (2, 'two')")
    docs.execute("update embedding_queue set status = 'failed', error_message = 'x'")
    assert explanation(docs, "failed_jobs")[0] == "2 jobs failed"


def test_an_autovacuum_that_is_off_for_the_queue(docs: Database) -> None:
    docs.execute("alter table embedding_queue set (autovacuum_enabled = off)")
    assert diagnosis(docs) == [("problem", "autovacuum_off", "embedding_queue")]
    [reset] = quoted(explanation(docs, "autovacuum_off")[1])
    run(docs, reset)
    assert diagnosis(docs) == []
    docs.execute("alter table embedding_queue set (autovacuum_enabled = yes)")
    assert diagnosis(docs) == []


@pytest.fixture
def without_autovacuum(docs: Database) -> Iterator[Database]:
    docs.execute("alter system set autovacuum = off")
    try:
        _reload(docs, "off")
        yield docs
    finally:
        docs.execute("alter system reset autovacuum")
        _reload(docs, "on")


def _reload(db: Database, autovacuum: str) -> None:
    db.execute("select pg_reload_conf()")
    deadline = time.monotonic() + 20
    while value(db, "show autovacuum") != autovacuum:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_autovacuum_that_is_off_for_the_server(without_autovacuum: Database) -> None:
    assert diagnosis(without_autovacuum) == [("problem", "autovacuum_off", "autovacuum")]


def test_dead_rows_that_nobody_sweeps(docs: Database) -> None:
    docs.execute("alter table embedding_queue set (autovacuum_enabled = off)")
    insert(docs, 10_001)
    docs.execute("delete from docs where id > 1")
    docs.execute("select pg_stat_force_next_flush()")
    assert diagnosis(docs) == [("problem", "autovacuum_off", "embedding_queue")]
    docs.execute("delete from docs")
    docs.execute("select pg_stat_force_next_flush()")
    assert diagnosis(docs) == [
        ("problem", "autovacuum_off", "embedding_queue"),
        ("warning", "autovacuum_behind", "embedding_queue"),
    ]
    cause, hint = explanation(docs, "autovacuum_behind")
    assert cause == "the queue has 10001 dead rows and 0 live rows"
    look, vacuum = quoted(hint)
    run(docs, look)
    run(docs, vacuum)
    docs.execute("select pg_stat_force_next_flush()")
    assert [check for _, check, _ in diagnosis(docs)] == ["autovacuum_off"]


# -- the order


def test_problems_come_first_and_notes_last(docs: Database) -> None:
    set_all(docs, "failed", 1)
    docs.execute("update pg_extension set extversion = '0.8.0' where extname = 'vector'")
    docs.execute("drop trigger embedding_insert_1 on docs")
    assert [level for level, _, _ in diagnosis(docs)] == ["problem", "warning", "note"]


# -- texts in chunks


@pytest.fixture
def read_by(manuals: Database) -> Database:
    """A table whose texts are in chunks, with a role that reads it, and row-level security."""
    create_role(manuals, "reader")
    manuals.execute("alter table docs enable row level security")
    manuals.execute("grant select on docs to reader")
    manuals.execute("grant insert on docs to public")
    manuals.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert diagnosis(manuals) == []
    return manuals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "drop table docs_chunks cascade",
            "public.docs_chunks and public.docs_passages no longer exist",
        ),
        ("drop view docs_passages", "public.docs_passages no longer exists"),
        (
            "alter table docs_chunk_places rename to elsewhere",
            "public.docs_chunk_places no longer exists",
        ),
    ],
)
def test_a_table_of_chunks_that_is_missing(
    manuals: Database, change: LiteralString, said: str
) -> None:
    manuals.execute(change)
    assert diagnosis(manuals) == [("problem", "side_tables_missing", "docs.embedding")]
    cause, hint = explanation(manuals, "side_tables_missing")
    assert cause == said
    assert "`worker watch docs --column embedding`" in hint


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("alter table docs_chunks disable row level security", "docs_chunks"),
        ("alter table docs_chunk_places disable row level security", "docs_chunk_places"),
        ("alter view docs_passages reset (security_invoker)", "docs_passages"),
    ],
)
def test_passages_that_are_shown_to_those_who_may_not_see_their_row(
    read_by: Database, change: LiteralString, part: str
) -> None:
    read_by.execute(change)
    assert diagnosis(read_by) == [("problem", "side_tables_unprotected", "docs.embedding")]
    cause, hint = explanation(read_by, "side_tables_unprotected")
    assert cause == (
        f"docs has row-level security, but public.{part} shows what is made from all rows"
    )
    run(read_by, *quoted(hint))
    assert diagnosis(read_by) == []


def test_without_row_level_security_all_passages_may_be_shown(manuals: Database) -> None:
    manuals.execute("alter table docs_chunks disable row level security")
    assert diagnosis(manuals) == []


@pytest.mark.parametrize(
    ("change", "level", "cause"),
    [
        ("revoke select on docs from reader", "problem", "reader may not read all of docs, but"),
        (
            "revoke select on docs from reader; grant select (id, body) on docs to reader",
            "problem",
            "reader may not read all of docs, but",  # not the title, which is the context
        ),
        ("grant select on docs to public", "warning", "public may read docs, but not"),
        ("revoke select on docs_chunks from reader", "warning", "reader may read docs, but not"),
    ],
)
def test_rights_on_passages_that_differ_from_those_on_their_texts(
    read_by: Database, change: LiteralString, level: str, cause: str
) -> None:
    read_by.execute(change)
    assert diagnosis(read_by) == [(level, "side_table_rights", "docs.embedding")]
    assert explanation(read_by, "side_table_rights")[0].startswith(cause)
    read_by.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert diagnosis(read_by) == []


def test_rights_on_other_columns_are_none_of_ours(read_by: Database) -> None:
    read_by.execute("alter table docs add note text")
    read_by.execute("revoke select on docs from reader")
    read_by.execute("grant select (id, title, body) on docs to reader")
    assert diagnosis(read_by) == []


def test_many_chunks_without_an_index_in_a_session_with_a_short_timeout(manuals: Database) -> None:
    manuals.execute("alter table docs_chunks disable trigger all")
    manuals.execute(
        "insert into docs_chunks (id, hash, content, embedding)"
        " select 1, sha256(i::text::bytea), '', '[1,2,3]' from generate_series(1, 10001) i"
    )
    manuals.execute("set statement_timeout = '2min'")
    assert diagnosis(manuals) == []
    manuals.execute("analyze docs_chunks")
    assert diagnosis(manuals) == [("warning", "timeout_too_short", "docs.embedding")]
    manuals.execute("create index on docs_chunks using hnsw (embedding vector_cosine_ops)")
    assert diagnosis(manuals) == []
