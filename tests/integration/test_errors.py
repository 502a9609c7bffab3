"""What the SQL API refuses is an error of usage; what the database refuses is one of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, Server, value
from tests.integration.jobs import SCOPE, claim, insert
from worker.database.connection import translated
from worker.errors import DatabaseError, SchemaError, SettingsError, Unreachable
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue


@pytest.mark.contract
def test_what_the_sql_api_refuses_is_an_error_of_usage(docs: Database, queue: AdminQueue) -> None:
    target = queue.target("docs", "embedding")
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    with pytest.raises(SettingsError, match="column embedding of table docs is not watched"):
        queue.backfill(target, 10)
    with pytest.raises(SettingsError, match="there is no worker nobody") as refused:
        queue.control("pause", "nobody")
    assert refused.value.exit_code == 2


@pytest.mark.contract
def test_what_an_older_schema_lacks_is_named(docs: Database, queue: AdminQueue) -> None:
    docs.execute("alter table embedding_control rename column since to began")
    docs.execute("drop function embedding_rate")
    docs.execute(
        "create or replace function embedding_overview() returns jsonb language sql"
        " set search_path = '', pg_temp as $$ select '{}'::jsonb $$"
    )
    for ask, missing in (
        (queue.commands, "since"),
        (lambda: queue.rate("test:model"), "embedding_rate"),
        (queue.overview, "column at"),
    ):
        with pytest.raises(SchemaError, match=missing) as found:
            ask()
        assert "lacks part of the SQL API" in found.value.cause
        assert "worker migrate" in str(found.value.hint)


@pytest.mark.over_a_connection
def test_what_the_database_refuses_is_told_with_its_sqlstate(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    queue.fail(claim(queue), "rejected", "it is refused")
    docs.execute(
        "create function never() returns trigger language plpgsql as"
        " $$ begin raise exception 'a value' using errcode = 'EX123'; end $$"
    )
    docs.execute(
        "create trigger never before update on embedding_queue"
        " for each row execute function never()"
    )
    with pytest.raises(DatabaseError) as refused:
        queue.requeue(status="failed")
    assert type(refused.value) is DatabaseError
    assert refused.value.exit_code == 1
    assert "SQLSTATE EX123" in refused.value.cause


@pytest.mark.over_a_connection
def test_a_check_of_the_queue_is_no_error_of_usage(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    queue.fail(claim(queue), "rejected", "it is refused")
    docs.execute("alter table embedding_queue add check (status <> 'pending') not valid")
    with pytest.raises(DatabaseError, match="SQLSTATE 23514"):
        queue.requeue(status="failed")


@pytest.fixture
def read_only(docs: Database, server: Server) -> Callable[[str], None]:
    """Makes the sessions that begin from now on read-only (`on`), or lets them write (`off`)."""

    def read_only(setting: str) -> None:
        name = sql.Identifier(docs.info.dbname)
        statement = sql.SQL("alter database {} set default_transaction_read_only = {}")
        with psycopg.connect(server.url, autocommit=True) as others:
            others.execute(statement.format(name, sql.SQL(setting)))

    return read_only


@pytest.mark.over_a_connection
def test_a_read_only_database_is_searched(
    docs: Database, queue: AdminQueue, database_url: str, read_only: Callable[[str], None]
) -> None:
    target = queue.target("docs", "embedding")
    read_only("on")
    with PostgresQueue(database_url, "tests") as reader:
        assert reader.search(target, np.ones(3, dtype=np.float32), 3) == []


@pytest.mark.over_a_connection
def test_a_read_only_database_that_refuses_connections_is_out_of_reach_until_it_is_back(
    docs: Database, database_url: str, server: Server, read_only: Callable[[str], None]
) -> None:
    insert(docs, 1)
    allow = sql.SQL("alter database {} allow_connections {}")
    name = sql.Identifier(docs.info.dbname)
    read_only("on")
    with (
        PostgresQueue(database_url, "tests") as worker,
        psycopg.connect(server.url, autocommit=True) as others,
    ):
        others.execute(allow.format(name, sql.SQL("false")))
        try:
            for _ in range(3):
                with pytest.raises(Unreachable):
                    worker.claim(SCOPE, 1)
            with pytest.raises(Unreachable):
                worker.relation("no such name")
        finally:
            others.execute(allow.format(name, sql.SQL("true")))
        read_only("off")
        assert [job.record_id for job in worker.claim(SCOPE, 1).jobs] == ["1"]


@pytest.mark.over_a_connection
def test_an_error_that_ends_the_session_is_an_outage(docs: Database) -> None:
    if value(docs, "select current_setting('server_version_num')::int") < 170000:
        pytest.skip("transaction_timeout came with Postgres 17")
    docs.execute("set transaction_timeout = '50ms'")
    with pytest.raises(Unreachable), translated():
        docs.execute("select pg_sleep(10)")
