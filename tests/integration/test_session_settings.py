"""Whatever a role or a database sets for its sessions, the queue reads and writes the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, Server, migrate, value
from tests.integration.jobs import SCOPE
from tests.integration.tables import embed, embed_all, jobs
from worker.errors import Unreachable
from worker.queue import Report
from worker.queue.postgres import PostgresQueue

# Each changes how Postgres writes a value, reads one, or parses a statement.
STRANGE = {
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "client_encoding": "LATIN1",
}
SOURCE = "concat_ws(' ', body, at, span, ratio, raw)"
TEXT = "🙂 déjà 2026-03-01 12:00:00+00 26:00:00 0.1 \\x00ff"

pytestmark = pytest.mark.over_a_connection


@pytest.fixture
def events(db: Database) -> Database:
    """A table `events` whose text is made of values that sessions write in different ways."""
    db.execute(
        "create table events (id integer primary key, body text, at timestamptz, span interval,"
        " ratio double precision, raw bytea)"
    )
    db.execute("select watch_embeddings('events', %s, 'embedding', dimensions => 3)", [SOURCE])
    db.execute(
        "insert into events values"
        " (1, '🙂 déjà', '2026-03-01 12:00+00', '26 hours', 0.1, '\\x00ff'),"
        " (2, '\u00a0', null, null, null, null)"
    )
    return db


def set_for_sessions(db: Database, settings: dict[str, str]) -> None:
    """What `alter database … set` says for the sessions that begin from now on."""
    for name, setting in settings.items():
        db.execute(
            sql.SQL("alter database {} set {} = {}").format(
                sql.Identifier(db.info.dbname),
                sql.SQL(name),
                sql.SQL(", ").join(map(sql.Literal, setting.split(", "))),
            )
        )


@pytest.fixture
def strange(server: Server, database: str, events: Database) -> Iterator[PostgresQueue]:
    """A queue whose session has the strange settings."""
    set_for_sessions(events, STRANGE)
    with closing(psycopg.connect(server.direct_url_of(database))) as session:
        assert value(session, "select '2026-03-01'::date::text") == "01.03.2026"
    with PostgresQueue(server.url_of(database), "tests") as queue:
        yield queue


@pytest.mark.parametrize("setting", STRANGE)
def test_a_text_is_the_same_in_every_session(
    server: Server, database: str, events: Database, setting: str
) -> None:
    set_for_sessions(events, {setting: STRANGE[setting]})
    with PostgresQueue(server.url_of(database), "tests") as queue:
        claim = queue.claim(SCOPE, 10)
        assert [job.content for job in claim.jobs] == [TEXT]
        assert dict(claim.settled) == {"skipped": 1}
        assert embed(queue, claim.jobs) == []


def test_a_text_that_one_session_embedded_is_unchanged_for_another(
    strange: PostgresQueue, server: Server, database: str, events: Database
) -> None:
    assert embed_all(strange) == [TEXT]
    events.execute("update embedding_queue set status = 'pending' where record_id = '1'")
    for setting in STRANGE:
        events.execute(
            sql.SQL("alter database {} reset {}").format(
                sql.Identifier(database),
                sql.SQL(setting),
            )
        )
    with PostgresQueue(server.url_of(database), "tests") as plain:
        assert dict(plain.claim(SCOPE, 10).settled) == {"completed": 1}


def test_a_text_that_one_session_embedded_is_not_stale_for_another(
    strange: PostgresQueue, server: Server, database: str, events: Database
) -> None:
    assert embed_all(strange) == [TEXT]
    target = strange.target("events", "embedding")
    [there] = strange.sample_vectors(target, 10)
    assert (there.content, there.excluded) == (TEXT, None)
    events.execute(sql.SQL("alter database {} reset all").format(sql.Identifier(database)))
    with PostgresQueue(server.url_of(database), "tests") as plain:
        for queue in (strange, plain):
            found = {each.finding: each.found for each in queue.verify(target, None) if each.found}
            assert found == {"rows": 2, "texts": 1, "vectors": 1}


def test_every_look_at_the_queue_gives_what_a_plain_session_sees(
    strange: PostgresQueue, events: Database
) -> None:
    [job] = strange.claim(SCOPE, 10).jobs
    strange.fail([job], "rejected", "no", None)
    strange.heartbeat(SCOPE, Report("working"))
    strange.control("pause")
    strange.report_provider("openai", "it is out")
    assert strange.command(SCOPE).since == value(events, "select since from embedding_control")
    [worker] = strange.overview().workers
    assert worker.seen_at == value(events, "select seen_at from embedding_workers")
    [failure] = strange.overview().failures
    assert failure.latest_at == value(events, "select latest_at from embedding_failures")
    [stopped] = strange.overview().providers
    assert stopped.since == value(events, "select since from embedding_providers")
    [listed] = strange.list_jobs(["failed"], None, None, 10)
    assert listed.updated_at == failure.latest_at
    assert listed.preview == TEXT
    assert strange.stats(timedelta(days=1)).failures[0]["latest_at"]
    assert abs(strange.clock() - datetime.now(UTC)) < timedelta(minutes=1)
    [status] = strange.status()
    assert (status.table_name, status.failed) == ("events", 1)
    assert [asdict(target)["table_name"] for target in strange.targets("events")] == ["events"]
    assert strange.estimate("test:model", None, None, missing=False)[0].row_count == 0
    assert strange.session() is not None
    strange.diagnose()
    strange.progress()


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def encoded(
    request: pytest.FixtureRequest, server: Server
) -> Iterator[tuple[PostgresQueue, Database]]:
    """A queue in a database of another encoding than UTF-8, and a connection to it."""
    name = f"test_{uuid4().hex[:12]}"
    create: LiteralString = (
        f"create database {name} encoding '{request.param}' locale 'C' template template0"
    )
    with psycopg.connect(server.url, autocommit=True) as postgres:
        postgres.execute(create)
        migrate(server.direct_url_of(name))
        with (
            psycopg.connect(
                server.direct_url_of(name), autocommit=True, client_encoding="UTF8"
            ) as db,
            PostgresQueue(server.url_of(name), "tests") as queue,
        ):
            db.execute("create table docs (id text primary key, body text)")
            db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
            yield queue, db
        postgres.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_a_database_of_another_encoding_is_served(
    encoded: tuple[PostgresQueue, Database],
) -> None:
    queue, db = encoded
    db.execute("insert into docs values ('1', 'plain'), ('é', 'déjà')")
    assert embed_all(queue) == ["déjà", "plain"]
    assert jobs(db) == [("1", "completed"), ("é", "completed")]


def test_what_a_provider_says_is_stored_in_any_encoding(
    encoded: tuple[PostgresQueue, Database],
) -> None:
    queue, db = encoded
    db.execute("insert into docs values ('1', 'one'), ('2', 'two')")
    one, two = queue.claim(SCOPE, 2).jobs
    queue.fail([one], "rejected", "no… 🙂", None)
    queue.release([two], timedelta(0), "später… 🙂", "rate_limited")
    queue.report_provider("openai", "aus… 🙂", "warten… 🙂")
    queue.heartbeat(SCOPE, Report("working", cause="paused… 🙂"))
    assert jobs(db) == [("1", "failed"), ("2", "pending")]


def test_bytes_that_are_no_utf_8_fail_alone(encoded: tuple[PostgresQueue, Database]) -> None:
    """SQL_ASCII checks nothing; every other encoding has a reading in UTF-8."""
    queue, db = encoded
    db.execute("insert into docs values ('1', 'plain'), ('2', e'caf\\351'), ('3', 'simple')")
    if value(db, "show server_encoding") == "SQL_ASCII":
        [estimate] = queue.estimate("test:model", None, None, missing=False)
        assert sorted(estimate.texts) == ["plain", "simple"]
        assert embed_all(queue) == ["plain", "simple"]
        [failed] = queue.list_jobs(["failed"], None, None, 10)
        assert (failed.record_id, failed.error_class, failed.preview) == ("2", "unreadable", None)
    else:
        assert embed_all(queue) == ["café", "plain", "simple"]


def test_the_encoding_of_the_environment_changes_nothing(
    server: Server, database: str, events: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with PostgresQueue(server.url_of(database), "tests") as queue:
        assert embed_all(queue) == [TEXT]


def test_a_database_that_was_read_only_is_used_again_by_the_same_worker(
    server: Server, database: str, docs: Database
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    name = sql.Identifier(database)
    read_only = sql.SQL("alter database {} set default_transaction_read_only = {}")
    docs.execute(read_only.format(name, sql.SQL("on")))
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        with pytest.raises(Unreachable, match="takes no writes"):
            queue.claim(SCOPE, 10)
        docs.execute(read_only.format(name, sql.SQL("off")))
        assert embed_all(queue) == ["one"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_stricter_transactions_work(
    server: Server, database: str, docs: Database, level: str
) -> None:
    set_for_sessions(docs, {"default_transaction_isolation": level})
    docs.execute("insert into docs values (1, 'one')")
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        assert embed_all(queue) == ["one"]


def test_a_role_with_short_timeouts_drains_the_queue(
    server: Server, database: str, docs: Database
) -> None:
    set_for_sessions(docs, {"lock_timeout": "1", "idle_session_timeout": "1000"})
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 300) i")
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        assert len(embed_all(queue)) == 300


def test_a_session_that_listens_is_not_ended_for_being_idle(
    server: Server, database: str, docs: Database
) -> None:
    set_for_sessions(docs, {"idle_session_timeout": "200"})
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        assert queue.listen()
        backend = value(docs, "select pid from pg_stat_activity where application_name = 'tests'")
        assert not queue.wait(0.6)
        assert queue.listen()
        assert backend == value(
            docs, "select pid from pg_stat_activity where application_name = 'tests'"
        )
