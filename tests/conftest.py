"""A real Postgres for every test that asks for one.

One embedded server a session and version: Postgres 18 always, 16 as well where CI is set. Once
more 18 is reached through pgbouncer, and what a queue promises once more over the Data API, by the
worker; what a test does itself it does directly. The migrations are applied once, to a template,
and so are the tables that many tests begin with; each test gets a clone of a template.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from tests.aws_descriptions import read_once
from tests.command_line import NO_CERTIFICATES, run_command_line
from tests.pgbouncer import NO_PGBOUNCER, open_all_sessions, pgbouncer, pgbouncer_program
from tests.s3_server import NO_MOTO, S3Server, moto_is_here, s3_server
from tests.supabase_project import (
    NO_SUPABASE,
    PROJECT,
    Project,
    data_api,
    make_project,
    supabase_is_here,
)
from worker.database.embedded import embedded_postgres
from worker.database.migrations import migrations
from worker.queue import AdminQueue
from worker.queue.data_api import DataApiQueue
from worker.queue.postgres import PostgresQueue

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = dict(os.environ)  # with the certificates, for programs that use the Internet
os.environ.pop("SSL_CERT_FILE", None)
os.environ.update(NO_CERTIFICATES)

IN_CI = bool(os.environ.get("CI"))
VARIANTS = {"pg18": "18", "pgbouncer": "18", "data_api": "project"} | (
    {"pg16": "16"} if IN_CI else {}
)
# What is tried over the Data API: the contract of both queues, and whole runs over it. Without
# `--full` only tests marked `contract`: together they call each function that any test calls there,
# with each of its arguments as each kind of value, and meet each kind of answer and error.
CONTRACT = (
    "test_audit",
    "test_backfill",
    "test_backup_schedule",
    "test_batches",
    "test_cache",
    "test_checks",
    "test_chunk_engine",
    "test_claim",
    "test_complete",
    "test_damage",
    "test_dashboard",
    "test_database_load",
    "test_enhancement",
    "test_errors",
    "test_estimate",
    "test_file_scan",
    "test_list",
    "test_notify",
    "test_one_model",
    "test_poll",
    "test_progress",
    "test_recheck",
    "test_reprocess",
    "test_requeue",
    "test_restore",
    "test_restore_chunks",
    "test_service",
    "test_stats",
    "test_usage",
    "test_whole_backup",
)
# What is tried through pgbouncer: what may depend on the session that a statement runs in.
SESSIONS = (
    "test_audit",
    "test_database_load",
    "test_leases",
    "test_notify",
    "test_service",
    "test_session_settings",
)
# What is tried on another version of Postgres: SQL of ours, and its errors, plans and catalogs. Of
# the contract, without `--full`, what is tried over the Data API.
VERSIONS = (
    "test_access",
    "test_batches",
    "test_claim",
    "test_complete",
    "test_dependents",
    "test_distant_jobs",
    "test_drift",
    "test_identity",
    "test_match_function",
    "test_moving_keys",
    "test_restore",
    "test_security",
    "test_triggers",
    "test_vector_hash",
    "test_whole_backup",
)
TRIED_OVER = {"data_api": CONTRACT, "pgbouncer": SESSIONS, "pg16": VERSIONS}

LOCK_TIMEOUT = "20s"
OWN_PROJECT = "own_project"

Database = psycopg.Connection[TupleRow]
TemplateOf = Callable[..., str]
FirstTables = dict[str, Callable[[Database], object]]


@dataclass(frozen=True)
class Server:
    """A running server, and the way by which the worker reaches it.

    `project`: what serves the Data API of its database `project`, which is then that of each test.
    """

    url: str
    worker_url: str
    project: Project | None = None

    def url_of(self, database: str) -> str:
        """The URL of a database for the worker."""
        return _url_of(self.worker_url, database)

    def direct_url_of(self, database: str) -> str:
        """The URL of a database with nothing in between."""
        return _url_of(self.url, database)


def _url_of(server: str, database: str) -> str:
    head, _, query = server.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="all tests over every server with all parameters, tests/chaos at its full length",
    )


def pytest_collection() -> None:
    gc.disable()  # nothing that is collected is garbage


@pytest.hookimpl(tryfirst=True)  # whatever else a test is tried with, its server is named first
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test of the database run over each server on which it may depend."""
    if not {"server", "postgres"} <= set(metafunc.fixturenames):
        return  # it has no server, or one of a model
    full = metafunc.config.getoption("--full")
    home = _home_of(metafunc.definition)
    variants = [
        _variant(name)
        for name in VARIANTS
        if (name == home if home else _may_depend_on(metafunc.definition, name, full))
    ]
    metafunc.parametrize("server", variants, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what would show the same once more.

    Each test runs over the newest Postgres with all its parameters. Over another server on which
    it may depend it runs with its first parameters; with `--full`, with all. What is marked
    `only_in_full` runs only then; with names of servers in the mark, that is about these alone.
    """
    if config.getoption("--full"):
        return
    tried: set[tuple[str, str]] = set()

    def is_wanted(item: pytest.Item) -> bool:
        callspec = getattr(item, "callspec", None)
        variant = callspec.params.get("server", "none") if callspec else "none"
        mark = item.get_closest_marker("only_in_full")
        if mark and variant in (mark.args or (variant,)):
            return False
        if variant in ("none", "pg18") or _home_of(item):
            return True
        test = (item.nodeid.partition("[")[0], variant)
        if test in tried:
            return False
        tried.add(test)
        return True

    items[:] = filter(is_wanted, items)


def rest_in_full(values: Iterable[Any], first: int = 1) -> list[Any]:
    """Parameters of a test, of which only the first run without `--full`."""
    values = list(values)
    return values[:first] + [_only_in_full(value) for value in values[first:]]


def _only_in_full(value: Any) -> Any:
    only = pytest.mark.only_in_full
    if isinstance(value, type(pytest.param())):
        return pytest.param(*value.values, marks=[*value.marks, only], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=only)


def pytest_collection_finish() -> None:
    """Take what is there to stay out of garbage collections, which the worker asks for at times."""
    gc.enable()
    gc.collect()
    gc.freeze()


def _home_of(item: pytest.Item) -> str | None:
    """The one server that a test is about."""
    if item.path.stem == "test_pooler":
        return "pgbouncer"
    return "data_api" if item.get_closest_marker("over_the_data_api") else None


def _may_depend_on(item: pytest.Item, variant: str, full: bool) -> bool:
    if variant == "pg18":
        return True
    if "/integration/" not in item.nodeid:
        return False  # the command line and its end are the same over any server
    if variant == "data_api" and item.get_closest_marker("over_a_connection"):
        return False
    in_part = variant == "data_api" or (variant == "pg16" and item.path.stem in CONTRACT)
    if in_part and not full and not item.get_closest_marker("contract"):
        return False
    return item.path.stem in TRIED_OVER[variant] or (full and variant != "data_api")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """The URL of a server, which is started when it is first asked for.

    Of that of a Postgres version (`18`), or of one with the roles of Supabase (`project`): roles
    are those of a whole server.
    """
    with ExitStack() as servers:
        yield cache(
            lambda name: servers.enter_context(_postgres(int(name) if name.isdigit() else 18))
        )


def _variant(name: str) -> Any:
    """A parameter of `server`; skipped if it cannot be had here, but never where CI is set."""
    lacking = {
        "pgbouncer": "" if pgbouncer_program() else NO_PGBOUNCER,
        "data_api": "" if supabase_is_here() else NO_SUPABASE,
    }.get(name)
    return pytest.param(name, marks=[pytest.mark.skip(lacking)] if lacking and not IN_CI else [])


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, postgres: Callable[[str], str]) -> Iterator[Server]:
    url = postgres(VARIANTS[request.param])
    if request.param == "pgbouncer":
        with pgbouncer(url) as pooled_url:
            yield Server(url, pooled_url)
    elif request.param == "data_api":
        with (
            new_database(url, name=PROJECT) as name,
            data_api(_url_of(url, name)) as project,
        ):
            yield Server(url, url, project)
    else:
        yield Server(url, url)


@contextmanager
def _postgres(version: int) -> Iterator[str]:
    # Not below pytest's own folder: of root, each run closes that one to all others, and so to the
    # user that the server of a run beside it has.
    with (
        tempfile.TemporaryDirectory(prefix="embedding-worker-", dir=memory()) as folder,
        embedded_postgres(Path(folder), version) as url,
        closing(_administrator(url)) as connection,
    ):
        # The data is thrown away: only a crash of the machine could tell the difference.
        connection.execute("alter system set fsync = off")
        connection.execute("alter system set full_page_writes = off")
        connection.execute("alter system set max_connections = 100")
        connection.execute("select pg_reload_conf()")
        yield url


@cache
def _administrator(url: str) -> Database:
    """The connection that makes and drops all databases of a server."""
    return psycopg.connect(url, autocommit=True)


def memory() -> str | None:
    """A folder in memory, if there is one with room: a database per test writes a lot."""
    shared = Path("/dev/shm")
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 4 * 1024**3
    return str(shared) if roomy else None


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full length, and not as a part of the suite."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def template_of(postgres: Callable[[str], str]) -> Iterator[TemplateOf]:
    """Returns the name of a database to clone, which a function made when it was first asked for.

    The database begins empty or as a clone of `base`. The function gets a connection to it as the
    owner, in autocommit. All are dropped before the servers of `postgres` stop.
    """
    with ExitStack() as databases:

        @cache
        def template_of(
            server: str, make: Callable[[Database], object], base: str | None = None
        ) -> str:
            name = databases.enter_context(new_database(server, base))
            with psycopg.connect(_url_of(server, name), autocommit=True) as connection:
                make(connection)
            return name

        yield template_of


@pytest.fixture
def template(request: pytest.FixtureRequest, server: Server, template_of: TemplateOf) -> str:
    """The name of a database that is migrated, with the tables that the test begins with."""
    base = template_of(server.url, migrated_project if server.project else migrated_database)
    of_its_module: FirstTables = getattr(request.module, "FIRST_TABLES", {})
    for fixture, create in (of_its_module | FIRST_TABLES).items():
        if fixture in request.fixturenames:
            return template_of(server.url, create, base)
    return base


def migrated_database(db: Database) -> None:
    migrate(db.info.dsn)


def migrated_project(db: Database) -> None:
    make_project(db.info.dsn)
    migrate(db.info.dsn)


def project_with_accounts(db: Database) -> None:
    migrated_project(db)
    with data_api(db.info.dsn):
        pass  # its start made the tables of the accounts


@pytest.fixture(scope="module")
def shared_url(postgres: Callable[[str], str], template_of: TemplateOf) -> Iterator[str]:
    """The URL of a migrated database that the tests of a module share."""
    url = postgres("18")
    with new_database(url, template_of(url, migrated_database)) as name:
        yield _url_of(url, name)


@pytest.fixture
def database(server: Server, template: str) -> Iterator[str]:
    """The name of a database of this test alone, migrated."""
    if server.project:
        replace_database(server.url, template, PROJECT, server.project)
        yield PROJECT
    else:
        with new_database(server.url, template) as name:
            yield name


@pytest.fixture
def database_url(server: Server, database: str) -> str:
    """Its URL for the worker."""
    return _opened(server, database)


@pytest.fixture
def empty_database(server: Server) -> Iterator[str]:
    """The name of a database of this test alone, without the migrations."""
    with new_database(server.url) as name:
        yield name


@pytest.fixture
def empty_database_url(server: Server, empty_database: str) -> str:
    """Its URL for the worker."""
    return _opened(server, empty_database)


@pytest.fixture
def empty_db(server: Server, empty_database: str) -> Iterator[Database]:
    """A connection to it as the owner, in autocommit."""
    with psycopg.connect(server.direct_url_of(empty_database), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def project_server(postgres: Callable[[str], str]) -> Server:
    """The server that has the roles of Supabase."""
    return Server(postgres("project"), postgres("project"))


@pytest.fixture
def empty_project(project_server: Server) -> Iterator[str]:
    """The URL of a Supabase project's database of this test alone, without the migrations."""
    with new_database(project_server.url) as name:
        url = project_server.url_of(name)
        make_project(url)
        yield url


@pytest.fixture(scope="module")
def project_api(project_server: Server) -> Iterator[Project]:
    """What serves the Data API of the database `own_project`, which is then that of each test.

    Of a module each: Supabase Lite keeps the tables that it has seen first.
    """
    with (
        new_database(project_server.url, name=OWN_PROJECT) as name,
        data_api(project_server.url_of(name)) as project,
    ):
        yield project


@pytest.fixture
def project(project_server: Server, project_api: Project, template_of: TemplateOf) -> Project:
    """A Supabase project of this test alone, migrated, with its Data API."""
    template = template_of(project_server.url, project_with_accounts)
    replace_database(project_server.url, template, OWN_PROJECT, project_api)
    return project_api


@pytest.fixture
def owner(project: Project) -> Iterator[Database]:
    """A connection to the database of the project as its owner, in autocommit."""
    with psycopg.connect(project.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connect(server: Server, database: str) -> Iterator[Callable[[], Database]]:
    """Opens a further connection, in autocommit, each time it is called.

    It waits for a lock for LOCK_TIMEOUT at most: a test that would hang fails.
    """
    opened: list[Database] = []

    def connect() -> Database:
        opened.append(
            psycopg.connect(
                server.direct_url_of(database),
                autocommit=True,
                options=f"-c lock_timeout={LOCK_TIMEOUT}",
            )
        )
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def db(connect: Callable[[], Database]) -> Database:
    """A connection as the owner, in autocommit."""
    return connect()


@pytest.fixture
def queue(server: Server, database_url: str) -> Iterator[AdminQueue]:
    """The queue of this test, by the way of the worker."""
    with (
        DataApiQueue(server.project.url, server.project.secret_key, "tests")
        if server.project
        else PostgresQueue(database_url, "tests")
    ) as queue:
        yield queue


@pytest.fixture(scope="session")
def s3_running() -> Iterator[S3Server]:
    if not moto_is_here() and not IN_CI:
        pytest.skip(NO_MOTO)
    read_once()
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that speaks S3, with an empty bucket `shelf`."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    s3_running.reset()
    s3_running.client().create_bucket(Bucket="shelf")
    return s3_running


def create_docs(db: Database) -> None:
    db.execute(
        "create table docs (id bigint primary key, body text, views integer not null default 0)"
    )
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")


def create_texts(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 8)")


def create_notes(db: Database) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 8)")


def create_local_notes(db: Database) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")


# The tables that a test's database begins with, by the fixture that asks for them. They are part
# of a template, because watching a table takes three times as long as cloning a database. A module
# has those of its own fixtures under the same name, and they go first.
FIRST_TABLES: FirstTables = {
    "with_docs": create_docs,
    "with_texts": create_texts,
    "with_notes": create_notes,
    "with_local_notes": create_local_notes,
}


@pytest.fixture
def with_docs() -> None:
    pass


@pytest.fixture
def with_texts() -> None:
    pass


@pytest.fixture
def with_notes() -> None:
    pass


@pytest.fixture
def with_local_notes() -> None:
    pass


@pytest.fixture
def docs(with_docs: None, db: Database) -> Database:
    """A watched table `docs (id bigint, body, views, embedding vector(3))`, and its connection."""
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
    *arguments: str, cwd: Path, environment: Mapping[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`worker ARGUMENTS` with nothing in the environment but what is given."""
    return run_command_line(arguments, cwd, {"PATH": os.environ["PATH"], **environment}, timeout)


def migrate(url: str, *before: LiteralString) -> None:
    """Apply the migrations to a database in which other statements ran before."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in before:
            connection.execute(statement)
    with PostgresQueue(url, "tests") as queue:
        for migration in migrations():
            queue.apply(migration)


def value(connection: Database, query: LiteralString, *parameters: Any) -> Any:
    """The only value of the only row."""
    row = connection.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


def rows(connection: Database, query: LiteralString, *parameters: Any) -> list[TupleRow]:
    """All rows, as tuples."""
    return connection.execute(query, parameters or None).fetchall()


def _opened(server: Server, database: str) -> str:
    url = server.url_of(database)
    if server.worker_url != server.url:
        open_all_sessions(url)
    return url


@contextmanager
def new_database(
    server: str, template: str | None = None, name: str | None = None
) -> Iterator[str]:
    """Yield the name of a database that is made, and dropped on leaving."""
    if name:
        _drop_database(server, name)
    else:
        name = f"test_{uuid4().hex[:12]}"
    _create_database(server, name, template)
    yield name
    _drop_database(server, name)


def replace_database(server: str, template: str, name: str, project: Project) -> None:
    """Put a clone of a template in the place of the database that a project serves.

    The driver of @supabase/lite loses what it runs on a connection that ends, and what it runs
    there next: https://github.com/porsager/postgres/issues/1195. So they end while it is at rest.
    One request takes several statements, and who sent it may not have waited for the answer.
    """
    work = (
        "select from pg_stat_activity where datname = %s and application_name = 'postgres.js'"
        " and (state <> 'idle' or state_change > clock_timestamp() - interval '50 ms')"
    )
    eventually(lambda: not _administrator(server).execute(work, [name]).fetchall(), 30)
    with project.database.hung_up():
        _drop_database(server, name)
        _create_database(server, name, template)


def _create_database(server: str, name: str, template: str | None) -> None:
    create = sql.SQL("create database {}").format(sql.Identifier(name))
    if template:
        create += sql.SQL(" template {} strategy file_copy").format(sql.Identifier(template))
    _administrator(server).execute(create)


def _drop_database(server: str, name: str) -> None:
    # A pooler may still hold sessions: to see them go, the DROP would wait a tenth of a second.
    sessions = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
    while _administrator(server).execute(sessions, [name]).fetchall():
        pass
    drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
    _administrator(server).execute(drop)


def eventually(condition: Callable[[], object], within: float) -> None:
    """Wait until it holds, for so many seconds at most."""
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, "it does not come about"
        time.sleep(0.02)
