"""How busy the database is, as seen by a worker that is about to step back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import LiteralString, cast

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rows, value
from tests.integration.jobs import insert
from tests.integration.runs import Runs
from tests.integration.tables import create_role
from tests.integration.test_service import Log, are_done, eventually, is_in, serving
from worker.queue import AdminQueue
from worker.settings import Settings
from worker.throttle import load
from worker.throttle.load import LoadThrottle

Connect = Callable[[], Database]


@contextmanager
def busy_with(db: Database, statement: LiteralString) -> Iterator[None]:
    """While somebody else is at this statement, which does not end by itself."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(db.execute, statement)
        try:
            yield
        finally:
            while not running.done():  # also if it has not begun yet
                db.cancel_safe()
            with pytest.raises(psycopg.errors.QueryCanceled):
                running.result()


@pytest.mark.contract
def test_nobody_waits_where_nothing_is_done(docs: Database, queue: AdminQueue) -> None:
    load = queue.load()
    assert load.max_connections
    assert (load.lock_wait_seconds, load.vacuumed_table) == (0, None)
    assert load.replica_lag_seconds is None


def test_sessions_at_work_are_counted(docs: Database, queue: AdminQueue, connect: Connect) -> None:
    def active() -> int:
        found = queue.load().active_sessions
        assert found is not None
        return found

    before = active()
    with busy_with(connect(), "select pg_sleep(600)"):
        eventually(lambda: active() == before + 1)
        with connect().transaction():  # which holds locks and rows, busy or not
            eventually(lambda: active() == before + 2)
    eventually(lambda: active() == before)


def test_it_sees_who_waits_for_a_lock(docs: Database, queue: AdminQueue, connect: Connect) -> None:
    docs.execute("insert into docs values (1, 'text')")
    with docs.transaction():
        docs.execute("update docs set views = 1")
        with busy_with(connect(), "update docs set views = 2"):
            eventually(lambda: (queue.load().lock_wait_seconds or 0) > 0.5)
    assert queue.load().lock_wait_seconds == 0


def test_who_waits_to_be_the_leader_is_in_nobodys_way(
    docs: Database, queue: AdminQueue, connect: Connect
) -> None:
    docs.execute("select pg_advisory_lock(1)")
    waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
    with busy_with(connect(), "select pg_advisory_lock(1)"):
        eventually(lambda: rows(docs, waiting) != [(0,)])
        assert queue.load().lock_wait_seconds == 0


@pytest.mark.parametrize(
    ("table", "name"),
    [("docs", "docs"), ("embedding_queue", "embedding_queue"), ("others", None)],
)
def test_it_sees_a_vacuum_of_a_table_that_is_ours(
    docs: Database, queue: AdminQueue, connect: Connect, table: str, name: str | None
) -> None:
    docs.execute("create table others (id bigint, body text)")
    docs.execute("insert into others select n, repeat('x', 500) from generate_series(1, 2000) n")
    docs.execute("insert into docs select * from others")
    docs.execute("update others set body = body || '!'")
    docs.execute("update docs set body = body || '!'")
    slow = connect()
    slow.execute("set vacuum_cost_delay = 100")
    slow.execute("set vacuum_cost_limit = 1")
    at_work = "select relid::regclass::text from pg_stat_progress_vacuum where datid = (%s)"
    database = "select oid from pg_database where datname = current_database()"
    vacuum = sql.SQL("vacuum {}").format(sql.Identifier(table))
    with busy_with(slow, vacuum.as_string()):
        eventually(lambda: rows(docs, at_work.replace("%s", database)) == [(table,)])
        assert queue.load().vacuumed_table == name
    assert queue.load().vacuumed_table is None


def test_an_owner_without_rights_sees_nothing_rather_than_zero(
    docs: Database, queue: AdminQueue, connect: Connect
) -> None:
    docs.execute("insert into docs values (1, 'text')")
    create_role(docs, "blind_owner")
    docs.execute("grant usage, create on schema public to blind_owner")
    docs.execute("alter function embedding_database_load owner to blind_owner")
    with docs.transaction():
        docs.execute("update docs set views = 1")
        with busy_with(connect(), "update docs set views = 2"):
            eventually(lambda: queue.load().lock_wait_seconds)  # which anybody may see
            load = queue.load()
    assert load.active_sessions is None
    assert load.vacuumed_table is None
    assert load.replica_lag_seconds is None
    assert load.max_connections


@pytest.mark.contract
def test_a_worker_that_is_held_goes_on_afterwards(
    docs: Database,
    runs: Runs,
    queue: AdminQueue,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "HOST_KNOWN_FOR", 0.05)
    monkeypatch.setattr(load, "DATABASE_KNOWN_FOR", 0.1)
    about = queue.load()
    assert about.max_connections
    share = 100 * (about.active_sessions or 0) // about.max_connections + 10
    limits = Settings(worker_max_db_sessions=share)
    busy = about.max_connections * (share + 5) // 100
    with (
        serving(runs, throttle=LoadThrottle(queue, limits, lambda: False)) as run,
        ExitStack() as sessions,
    ):
        for _ in range(busy):
            sessions.enter_context(connect().transaction())
        eventually(is_in(docs, "paused"))
        insert(docs, 5)
        time.sleep(0.3)  # in which it would be done
        assert are_done(docs, 0)()
        cause = value(docs, "select cause from embedding_workers")
        assert f"of {about.max_connections} sessions are active, above {share} %" in cause
        sessions.close()
        eventually(are_done(docs, 5))
    assert run.stats.completed == 5


def test_a_worker_thins_out_where_a_session_waits_for_long(
    docs: Database,
    runs: Runs,
    queue: AdminQueue,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "HOST_KNOWN_FOR", 0.05)
    monkeypatch.setattr(load, "DATABASE_KNOWN_FOR", 0.1)
    insert(docs, 1)
    limits = Settings(worker_max_lock_wait=0.2)
    with serving(runs, throttle=LoadThrottle(queue, limits, lambda: False)) as run:
        log = cast(Log, run.progress)
        eventually(are_done(docs, 1))
        with docs.transaction():
            docs.execute("update docs set views = 1")
            with busy_with(connect(), "update docs set views = 2"):
                eventually(lambda: log.named("throttle_changed"))
                connect().execute("insert into docs values (100, 'text')")
                eventually(lambda: run.stats.completed == 2)
        eventually(lambda: len(log.named("throttle_changed")) > 1)
    [thin, full] = log.named("throttle_changed")[:2]
    assert thin["throttle_level"] == "slow"
    assert "a session waits for a lock for" in str(thin["cause"])
    assert full["throttle_level"] == "full"
