"""What the database finds wrong with itself: each check made to fire by the thing itself."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.conftest import Database, rows, value
from tests.integration.tables import acting_as
from worker.queue import Finding
from worker.queue.postgres import PostgresQueue


def found(queue: PostgresQueue) -> dict[str, Finding]:
    findings = queue.diagnose()
    assert all(finding.cause and finding.cure for finding in findings)
    return {finding.check: finding for finding in findings}


def test_of_a_column_that_is_fine_nothing_is_said(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'a text')")
    assert queue.diagnose() == []


def test_that_nothing_is_watched_is_worth_saying(db: Database, queue: PostgresQueue) -> None:
    [finding] = queue.diagnose()
    assert (finding.level, finding.check) == ("note", "nothing_watched")


@pytest.mark.parametrize(
    ("version", "level"), [("0.6.2", "problem"), ("0.7.0", "warning"), ("0.8.3", "warning")]
)
def test_an_old_extension_is_told(
    docs: Database, queue: PostgresQueue, version: str, level: str
) -> None:
    docs.execute("update pg_extension set extversion = %s where extname = 'vector'", [version])
    assert found(queue)["vector_version"].level == level


@pytest.mark.parametrize("version", ["0.8.4", "0.10", "1.0.0"])
def test_a_newer_extension_is_fine(docs: Database, queue: PostgresQueue, version: str) -> None:
    docs.execute("update pg_extension set extversion = %s where extname = 'vector'", [version])
    assert queue.diagnose() == []


PROBLEMS: dict[str, tuple[LiteralString, ...]] = {
    "set_aside": ("update embedding_targets set problem = 'renamed'",),
    "table_missing": ("drop table docs",),
    "triggers_missing": ("drop trigger embedding_update_1 on docs",),
    "triggers_disabled": ("alter table docs disable trigger embedding_insert_1",),
    "column_changed": ("alter table docs alter column embedding type vector(4)",),
    "index_invalid": (
        "create index broken on docs using hnsw (embedding vector_cosine_ops)",
        "update pg_index set indisvalid = false where indexrelid = 'broken'::regclass",
    ),
    "autovacuum_off": ("alter table embedding_queue set (autovacuum_enabled = false)",),
}


@pytest.mark.parametrize("check", PROBLEMS)
def test_a_problem_of_the_database_is_told(
    docs: Database, queue: PostgresQueue, check: str
) -> None:
    assert value(docs, "select id from embedding_targets") == 1  # by which triggers are named
    for statement in PROBLEMS[check]:
        docs.execute(statement)
    assert found(queue)[check].level == "problem"


@pytest.mark.parametrize(
    "change",
    [
        "alter table docs drop column embedding",
        "alter table docs alter column embedding type text",
        "alter table docs alter column embedding type halfvec(2)",
    ],
)
def test_so_is_a_column_that_is_another_by_now(
    docs: Database, queue: PostgresQueue, change: LiteralString
) -> None:
    docs.execute(change)
    assert found(queue)["column_changed"].level == "problem"


def test_a_trigger_for_replicas_alone_is_as_good_as_disabled(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs enable replica trigger embedding_insert_1")
    assert found(queue)["triggers_disabled"].level == "problem"
    docs.execute("alter table docs enable always trigger embedding_insert_1")
    assert queue.diagnose() == []


@pytest.mark.parametrize(
    ("column_type", "fires"),
    [("vector(2000)", False), ("vector(2001)", True), ("halfvec(4000)", False)],
)
def test_a_width_that_cannot_be_indexed_is_a_warning(
    db: Database, queue: PostgresQueue, column_type: str, fires: bool
) -> None:
    db.execute(
        f"create table wide (id bigint primary key, body text, embedding {column_type})".encode()
    )
    db.execute("select watch_embeddings('wide', 'body', 'embedding')")
    assert ("dimensions_above_index" in found(queue)) is fires


def test_an_index_that_is_there_before_the_backfill_is_a_warning(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 1001) i")
    assert queue.diagnose() == []
    docs.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    assert found(queue)["index_during_backfill"].level == "warning"
    docs.execute("update embedding_queue set status = 'completed'")
    assert queue.diagnose() == []


def test_a_timeout_under_which_no_index_can_be_built_is_a_warning(
    docs: Database, queue: PostgresQueue, database: str
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 10001) i")
    assert queue.diagnose() == []
    docs.execute(f"alter database {database} set statement_timeout = '2min'".encode())
    with PostgresQueue(docs_url(docs), "tests") as hurried:
        assert "120 s" in found(hurried)["timeout_too_short"].cause
    docs.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    with PostgresQueue(docs_url(docs), "tests") as hurried:
        assert "timeout_too_short" not in found(hurried)


def docs_url(docs: Database) -> str:
    """The way of the test, and not through the pooler, whose sessions began before."""
    return f"postgresql://{docs.info.user}@/{docs.info.dbname}?host={docs.info.host}"


def test_dead_rows_that_nobody_sweeps_up_are_a_warning(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table embedding_queue set (autovacuum_enabled = false)")
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 6000) i")
    for _ in range(2):
        docs.execute("update embedding_queue set priority = priority + 1")
    docs.execute("select pg_stat_force_next_flush()")
    assert "12000 dead rows" in found(queue)["autovacuum_behind"].cause


def test_jobs_that_failed_are_worth_saying(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'a'), (2, 'b')")
    docs.execute("update embedding_queue set status = 'failed', error_message = 'why'")
    finding = found(queue)["failed_jobs"]
    assert (finding.level, finding.subject) == ("note", "docs.embedding")
    assert finding.cause.startswith("2 ")


def test_one_broken_column_does_not_hide_the_others(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("create table other (id bigint primary key, body text)")
    docs.execute("select watch_embeddings('other', 'body', 'embedding', dimensions => 3)")
    docs.execute("drop table docs")
    docs.execute("alter table other disable trigger all")
    assert {"table_missing", "triggers_disabled"} <= set(found(queue))


def test_the_role_of_a_worker_may_ask(docs: Database) -> None:
    docs.execute("drop table docs")
    with acting_as(docs, "embedding_worker"):
        assert rows(docs, "select check_name from diagnose_embeddings()") == [("table_missing",)]
