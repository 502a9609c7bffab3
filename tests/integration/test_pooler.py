"""Through a pooler in transaction mode, a worker works, and leaves a session as it found it.

The pooler of these tests has one session a database: whoever comes finds what the last one left.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest

from tests.conftest import Database, Server, rows, run_worker, value
from tests.integration.jobs import claim, complete, insert
from tests.integration.tables import create_role
from tests.pgbouncer import pgbouncer
from worker.database.connection import PostgresConnection
from worker.errors import SettingsError
from worker.queue.postgres import PostgresQueue


@pytest.fixture(scope="module")
def narrow(server: Server) -> Iterator[Server]:
    """The server, through a pooler that has one session for each of its databases."""
    with pgbouncer(server.url, pool_size=1) as url:
        yield Server(server.url, url)


def state(url: str) -> list[tuple[Any, ...]]:
    """Which session the next client gets, and all that is set or open in it.

    One setting is of the pooler: it makes the name of each client that of the session.
    """
    with psycopg.connect(url, autocommit=True, application_name="tests") as connection:
        return rows(
            connection,
            """
            select 'session', pg_backend_pid()::text, ''
            union all select 'user', session_user, current_user
            union all select 'setting', name, setting from pg_settings where source = 'session'
            union all select 'prepared statement', name, statement from pg_prepared_statements
            union all select 'cursor', name, statement from pg_cursors
            union all select 'channel', channel, '' from pg_listening_channels() as channel
            union all select 'temporary', relname, '' from pg_class
                       where relnamespace = pg_my_temp_schema()
            union all select 'lock', mode, '' from pg_locks
                       where pid = pg_backend_pid() and locktype = 'advisory'
            order by 1, 2
            """,
        )


def nearest(queue: PostgresQueue, record: int) -> list[str]:
    """The record found by the vector of one."""
    vector = np.array([record, 1, 0], dtype=np.float32)
    return [match.record_id for match in queue.search(queue.target("docs", "embedding"), vector, 1)]


def test_two_workers_take_turns_in_one_session(
    docs: Database, narrow: Server, database: str
) -> None:
    insert(docs, 6)
    url = narrow.url_of(database)
    with PostgresQueue(url, "one") as one, PostgresQueue(url, "two") as two:
        mine, theirs = claim(one, 3), claim(two, 2)
        assert complete(one, mine[:1]) == []
        assert complete(two, theirs[:1]) == []
        one.release(mine[1:])
        assert two.fail(theirs[1:], "rejected", "too long") == 1
        assert complete(one, claim(one, 2)) == []
        assert two.requeue(status="failed").requeued == 1
        assert complete(two, claim(two)) == []
        assert (nearest(one, 2), nearest(two, 5)) == (["2"], ["5"])
        assert (
            value(
                docs,
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and backend_type = 'client backend' and pid <> pg_backend_pid()",
            )
            == 1
        )
    assert rows(docs, "select id, embedding::real[] from docs order by id") == [
        (record, [record, 1, 0]) for record in range(1, 7)
    ]


def test_a_worker_leaves_nothing_behind(docs: Database, narrow: Server, database: str) -> None:
    url = narrow.url_of(database)
    before = state(url)
    insert(docs, 5)
    with PostgresQueue(url, "tests") as queue:
        queue.check_schema()
        # Many clients prepare a statement when they send it for the sixth time.
        for _ in range(10):
            queue.release(claim(queue))
        first, second, third, *_ = claim(queue)
        assert complete(queue, [first]) == []
        docs.execute("update docs set body = 'edited' where id = 1")
        assert [refused.reason for refused in complete(queue, [first])] == ["lost"]
        assert queue.fail([second], "rejected", "too long") == 1
        queue.release([third], timedelta(minutes=1), "later")
        assert queue.requeue(status="failed").requeued == 1
        target = queue.watch("docs", "upper(body)", "other", dimensions=3)
        assert queue.backfill(target, 10) == 5
        with pytest.raises(SettingsError):
            queue.watch("docs", "missing", "another", dimensions=3)
        assert nearest(queue, 1) == ["1"]
        assert (len(queue.status()), len(queue.overview().failures)) == (2, 0)
        assert queue.unwatch("docs", "other")
    assert state(url) == before


COMMANDS = [
    "watch docs --source body --column embedding --create-column",
    "backfill --batch 2",
    "process",
    "requeue --id 1",
    "process --batch-size 1 --delay-ms 1",
    "search text",
    "status",
    "targets",
    "unwatch docs --column embedding",
]


def test_the_commands_work_and_leave_nothing_behind(
    empty_db: Database,
    narrow: Server,
    empty_database: str,
    with_openai: dict[str, str],
    tmp_path: Path,
) -> None:
    url = narrow.url_of(empty_database)
    before = state(url)
    empty_db.execute("create table docs (id integer primary key, body text)")
    insert(empty_db, 3)
    for command in ["migrate", *COMMANDS]:
        result = run_worker(
            *command.split(), cwd=tmp_path, environment={"DATABASE_URL": url, **with_openai}
        )
        assert (command, result.returncode) == (command, 0), result.stderr
    assert value(empty_db, "select count(embedding) from docs") == 3
    assert state(url) == before


def test_two_processes_at_once_finish_the_queue_through_one_session(
    docs: Database, narrow: Server, database: str, with_openai: dict[str, str], tmp_path: Path
) -> None:
    insert(docs, 200)
    environment = {"DATABASE_URL": narrow.url_of(database), **with_openai}

    def process() -> int:
        arguments = ("process", "--batch-size", "5", "--limit", "100")
        return run_worker(*arguments, cwd=tmp_path, environment=environment).returncode

    with ThreadPoolExecutor() as threads:
        processes = [threads.submit(process) for _ in range(2)]
    assert [process.result() for process in processes] == [0, 0]
    assert rows(docs, "select status, count(*) from embedding_queue group by 1") == [
        ("completed", 200)
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "set statement_timeout = '1 min'",
        "set role somebody",
        "set session authorization somebody",
        "prepare hello as select 1",
        "declare hello cursor with hold for select 1",
        "listen hello",
        "create temporary table hello ()",
        "select pg_advisory_lock(1)",
    ],
)
def test_what_is_left_behind_is_found(
    db: Database, narrow: Server, database: str, statement: LiteralString
) -> None:
    """Without this, the tests above might show nothing."""
    create_role(db, "somebody")
    url = narrow.url_of(database)
    before = state(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
    assert state(url) != before


@pytest.mark.parametrize(("mode", "keeps"), [("transaction", False), ("session", True)])
@pytest.mark.parametrize("sessions", [1, 2, 3])
def test_a_connection_knows_whether_it_keeps_its_session(
    server: Server, database: str, mode: str, keeps: bool, sessions: int
) -> None:
    """With a pooler in session mode, each client has a session: there must be two of them."""
    size = max(sessions, 2) if keeps else sessions
    with pgbouncer(server.url, pool_size=size, mode=mode) as url:
        connection = PostgresConnection(Server(server.url, url).url_of(database), "tests")
        assert connection.keeps_session() == keeps
        connection.close()
    direct = PostgresConnection(server.direct_url_of(database), "tests")
    assert direct.is_direct()
    assert direct.keeps_session()
    direct.close()
