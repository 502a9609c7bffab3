"""A real Postgres for every test that asks for one.

One embedded server a session and version: Postgres 18 always, 16 as well where CI is set. The
migrations are applied once, to a template; each test gets a clone of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from worker.queue.embedded import embedded_postgres
from worker.queue.migrations import migrations
from worker.queue.postgres import PostgresQueue

REPOSITORY = Path(__file__).parents[1]
VERSIONS = [18, 16] if os.environ.get("CI") else [18]

Database = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Server:
    """A running server; `url_of` gives the URL of one of its databases."""

    url: str
    version: int

    def url_of(self, database: str) -> str:
        head, _, query = self.url.partition("?")
        return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The command line is the same over any server: it is tried over the newest alone."""
    items[:] = [
        item for item in items if "/acceptance/" not in item.nodeid or "[pg16" not in item.nodeid
    ]


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda version: f"pg{version}")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    # Not below pytest's own folder: of root, each run closes that one to all others, and so to the
    # user that the server of a run beside it has.
    with (
        tempfile.TemporaryDirectory(prefix="embedding-worker-", dir=_memory()) as folder,
        embedded_postgres(Path(folder), request.param) as url,
    ):
        with psycopg.connect(url, autocommit=True) as connection:
            # The data is thrown away: only a crash of the machine could tell the difference.
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set max_connections = 100")
            connection.execute("select pg_reload_conf()")
        yield Server(url, request.param)


def _memory() -> str | None:
    """A folder in memory, if there is one with room: a database a test is a lot of writing."""
    shared = Path("/dev/shm")
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 4 * 1024**3
    return str(shared) if roomy else None


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    _create(server, "worker_template")
    with PostgresQueue(server.url_of("worker_template"), "tests") as queue:
        for migration in migrations():
            queue.apply(migration)
    return "worker_template"


@pytest.fixture
def database_url(server: Server, template: str) -> Iterator[str]:
    """The URL of a database of this test alone, migrated."""
    name = f"test_{uuid4().hex[:12]}"
    _create(server, name, template)
    yield server.url_of(name)
    _drop(server, name)


@pytest.fixture
def empty_database_url(server: Server) -> Iterator[str]:
    """The URL of a database of this test alone, without the migrations."""
    name = f"test_{uuid4().hex[:12]}"
    _create(server, name)
    yield server.url_of(name)
    _drop(server, name)


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], Database]]:
    """Opens a further connection, in autocommit, each time it is called."""
    opened: list[Database] = []

    def connect() -> Database:
        opened.append(psycopg.connect(database_url, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def db(connect: Callable[[], Database]) -> Database:
    """A connection as the owner, in autocommit."""
    return connect()


@pytest.fixture
def queue(database_url: str) -> Iterator[PostgresQueue]:
    with PostgresQueue(database_url, "tests") as queue:
        yield queue


@pytest.fixture
def docs(db: Database) -> Database:
    """A watched table `docs (id bigint, body, views, embedding vector(3))`, and its connection."""
    db.execute(
        "create table docs (id bigint primary key, body text, views integer not null default 0)"
    )
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    return db


Worker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Worker:
    """Runs the command line as a process of its own, on the database of this test."""

    def worker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_worker(
            *arguments, cwd=tmp_path, environment={"DATABASE_URL": database_url, **environment}
        )

    return worker


def run_worker(
    *arguments: str, cwd: Path, environment: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`worker ARGUMENTS` with nothing in the environment but what is given."""
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def value(connection: Database, query: LiteralString, *parameters: Any) -> Any:
    """The only value of the only row."""
    row = connection.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


def rows(connection: Database, query: LiteralString, *parameters: Any) -> list[TupleRow]:
    """All rows, as tuples."""
    return connection.execute(query, parameters or None).fetchall()


def _create(server: Server, name: str, template: str | None = None) -> None:
    statement = sql.SQL("create database {}").format(sql.Identifier(name))
    if template:
        statement += sql.SQL(" template {} strategy file_copy").format(sql.Identifier(template))
    with psycopg.connect(make_conninfo(server.url), autocommit=True) as connection:
        connection.execute(statement)


def _drop(server: Server, name: str) -> None:
    with psycopg.connect(make_conninfo(server.url), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
