"""`worker index`: builds the vector index of a column, once, and cleans up after itself."""

from __future__ import annotations

import os
import pty
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from typing import LiteralString

import psycopg
import pytest

from tests.acceptance.conftest import Start, refused
from tests.command_line import Command
from tests.conftest import Database, Server, Worker, eventually, rows, value
from tests.integration.tables import Table
from tests.pgbouncer import pgbouncer
from worker import build_index
from worker.errors import SettingsError
from worker.queue.postgres import PostgresQueue

Connect = Callable[[], Database]

INDEXES: LiteralString = (
    "select pg_get_indexdef(indexrelid), indisvalid from pg_index"
    " join pg_opclass on pg_opclass.oid = indclass[0]"
    " where opcname ~ '_(cosine|l2|ip)_ops$' order by indexrelid"
)
NEAREST = "USING hnsw (embedding vector_cosine_ops)"


def indexes(db: Database) -> list[tuple[str, bool]]:
    """What each vector index is, after the name of its table, and whether it is valid."""
    return [
        (re.sub(r"^.*?(?=USING)", "", definition), is_valid)
        for definition, is_valid in rows(db, INDEXES)
    ]


def fill(notes: Database) -> None:
    """Rows with vectors."""
    notes.execute(
        "insert into notes select id, 'note', array_fill(id % 7 + 1, '{8}')::vector"
        " from generate_series(1, 50) as id"
    )


@contextmanager
def writer(connect: Connect) -> Iterator[Database]:
    """A transaction that has written to `notes` and stays open: a build cannot begin."""
    connection = connect()
    connection.execute("set application_name = 'slow writer'")
    with connection.transaction():
        connection.execute("insert into notes values (1000, 'not yet committed')")
        yield connection


@contextmanager
def old_snapshot(connect: Connect) -> Iterator[Database]:
    """A transaction that has read, but not `notes`: a build cannot end, and a DROP can."""
    connection = connect()
    connection.execute("set application_name = 'slow reader'")
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select count(*) from embedding_targets")
        yield connection


def await_line(command: Command, part: str) -> str:
    """Read stderr up to the first line with a part."""
    for line in command.stderr:
        if part in line:
            return line
    raise AssertionError(f"{part} was not shown")


def is_building(db: Database) -> bool:
    return bool(value(db, "select count(*) from pg_stat_progress_create_index"))


# -- what is built


def test_the_index_that_searches_use_is_built_once(notes: Database, worker: Worker) -> None:
    fill(notes)
    built = worker("index", "notes")
    assert (built.returncode, built.stdout) == (0, "Built: public.notes_embedding_idx\n")
    assert indexes(notes) == [(NEAREST, True)]
    assert value(notes, "select embedding_has_vector_index('notes', 'embedding')")
    again = worker("index", "notes")
    assert (again.returncode, again.stdout) == (0, "Present: public.notes_embedding_idx\n")
    assert indexes(notes) == [(NEAREST, True)]


def test_in_python_it_is_one_call(notes: Database, database_url: str) -> None:
    seen: list[object] = []
    with PostgresQueue(database_url, "tests") as queue:
        built = build_index(queue, "notes", on_progress=seen.append)
        assert (built.outcome, built.index) == ("built", "public.notes_embedding_idx")
        assert build_index(queue, "notes", "embedding").outcome == "present"
        assert build_index(queue, "notes", like="embedding", rebuild=True).outcome == "rebuilt"
        stop = Event()
        stop.set()
        stopped = build_index(queue, "notes", rebuild=True, stop=stop)
        assert (stopped.outcome, stopped.leftovers) == ("interrupted", [])
    assert indexes(notes) == [(NEAREST, True)]


def test_an_empty_table_gets_its_index(notes: Database, worker: Worker) -> None:
    assert worker("index", "notes").returncode == 0
    assert indexes(notes) == [(NEAREST, True)]


def test_a_halfvec_gets_its_own_operators(notes: Database, worker: Worker) -> None:
    notes.execute("alter table notes add column half halfvec(8)")
    notes.execute("select watch_embeddings('notes', 'body', 'half')")
    assert worker("index", "notes", "--column", "half").returncode == 0
    assert indexes(notes) == [("USING hnsw (half halfvec_cosine_ops)", True)]


def test_a_text_in_chunks_has_its_index_on_the_table_of_its_chunks(
    db: Database, worker: Worker
) -> None:
    db.execute("create table manuals (id bigint primary key, body text)")
    db.execute("select watch_embeddings('manuals', 'body', dimensions => 8, chunks => true)")
    assert worker("index", "manuals").stdout == "Built: public.manuals_chunks_embedding_idx\n"
    assert indexes(db) == [(NEAREST, True)]


def test_chunks_get_an_index_like_that_of_other_chunks(db: Database, worker: Worker) -> None:
    db.execute("create table manuals (id bigint primary key, body text)")
    for column in ("embedding", "other"):
        db.execute(
            "select watch_embeddings('manuals', 'body', %s, dimensions => 8, chunks => true)",
            [column],
        )
    db.execute("create index on manuals_chunks using hnsw (embedding vector_l2_ops) with (m = 8)")
    assert worker("index", "manuals", "--column", "other", "--like", "embedding").returncode == 0
    assert indexes(db) == [("USING hnsw (embedding vector_l2_ops) WITH (m='8')", True)] * 2
    assert value(db, "select count(*) from pg_indexes where tablename = 'manuals_other_chunks'"
                     " and indexdef ~ 'hnsw'") == 1  # fmt: skip


def test_any_names_will_do(db: Database, worker: Worker) -> None:
    table = Table(db, schema='A "b', name='T "x; %s', vector='E "v')
    table.create()
    name = table.watch()
    for expected in ("Built", "Present"):
        result = worker("index", name, "--column", 'E "v')
        assert (result.returncode, result.stdout.split(":")[0]) == (0, expected), result.stderr
    assert indexes(db) == [('USING hnsw ("E ""v" vector_cosine_ops)', True)]


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat"])
def test_an_index_is_built_like_that_of_another_column(
    notes: Database, worker: Worker, kind: str
) -> None:
    fill(notes)
    options = {"hnsw": "ef_construction = 40, m = 8", "ivfflat": "lists = 7"}[kind]
    notes.execute(
        f"create index on notes using {kind} (embedding vector_ip_ops) with ({options})"
        " where embedding is not null and body <> 'embedding''s \"embedding\"'"
    )
    notes.execute('alter table notes add column "embedding 2" halfvec(8)')
    notes.execute("select watch_embeddings('notes', 'body', 'embedding 2')")
    for _ in range(2):
        like = worker("index", "notes", "--column", "embedding 2", "--like", "embedding")
        assert like.returncode == 0, like.stderr
    [(old, _), (new, _)] = indexes(notes)
    assert new == old.replace("(embedding ", '("embedding 2" ').replace(
        "vector_ip", "halfvec_ip"
    ).replace("WHERE ((embedding", 'WHERE (("embedding 2"')


def test_a_rebuild_keeps_the_definition_and_makes_a_new_index(
    notes: Database, worker: Worker
) -> None:
    fill(notes)
    notes.execute("create index near on notes using hnsw (embedding vector_cosine_ops) with (m=8)")
    before = value(notes, "select pg_relation_filenode('near')")
    result = worker("index", "notes", "--rebuild")
    assert (result.returncode, result.stdout) == (0, "Rebuilt: public.near\n"), result.stderr
    assert indexes(notes) == [(NEAREST + " WITH (m='8')", True)]
    assert value(notes, "select pg_relation_filenode('near')") != before


def test_with_sql_the_statements_are_printed_and_run_in_psql(
    notes: Database, worker: Worker
) -> None:
    fill(notes)
    printed = worker("index", "notes", "--sql").stdout
    assert indexes(notes) == []
    for statement in printed.splitlines():
        notes.execute(statement.encode())
    assert indexes(notes) == [(NEAREST, True)]
    assert worker("index", "notes", "--sql").stdout == ""


def test_without_shared_memory_for_a_parallel_build_one_process_builds(
    notes: Database, worker: Worker, database: str
) -> None:
    """As in a container, where a build that gets more than 64 MB cannot be parallel."""
    fill(notes)
    for setting in ("maintenance_work_mem = '1000GB'", "min_parallel_table_scan_size = 0"):
        notes.execute(f'alter database "{database}" set {setting}'.encode())
    notes.execute("alter table notes set (parallel_workers = 2)")
    notes.execute("set maintenance_work_mem = '1000GB'")
    with pytest.raises(psycopg.errors.DiskFull, match="shared memory"):
        notes.execute("create index concurrently on notes using hnsw (embedding vector_cosine_ops)")
    result = worker("index", "notes")
    assert result.returncode == 0, result.stderr
    assert indexes(notes) == [(NEAREST, True)]


# -- what cannot be built


def test_a_column_that_can_have_no_index_is_refused(db: Database, worker: Worker) -> None:
    db.execute("create table wide (id bigint primary key, body text, v vector(2001), w vector)")
    db.execute("create table parts (id bigint primary key, body text) partition by range (id)")
    db.execute("create table part partition of parts default")
    for table, column in (("wide", "v"), ("wide", "w")):
        db.execute("select watch_embeddings(%s, 'body', %s)", [table, column])
    db.execute("select watch_embeddings('parts', 'body', 'embedding', dimensions => 3)")
    cause, hint = refused(worker("index", "wide", "--column", "v"), 2)
    assert "at most 2000" in cause
    assert "halfvec(2001)" in hint
    assert "no fixed width" in refused(worker("index", "wide", "--column", "w"), 2)[0]
    assert "partitioned" in refused(worker("index", "parts"), 2)[0]
    assert indexes(db) == []


def test_what_is_not_watched_or_has_no_index_is_refused(notes: Database, worker: Worker) -> None:
    assert "not watched" in refused(worker("index", "notes", "--column", "body"), 2)[0]
    cause, hint = refused(worker("index", "notes", "--like", "body"), 2)
    assert cause == "column body of table notes has no valid vector index"
    assert "--like" in hint


def test_through_a_pooler_in_transaction_mode_the_statements_are_printed(
    notes: Database, worker: Worker, server: Server, database: str
) -> None:
    fill(notes)
    with pgbouncer(server.url) as url:
        result = worker("index", "notes", DATABASE_URL=Server(server.url, url).url_of(database))
    cause, hint = refused(result, 2)
    assert "pooler in transaction mode" in cause
    assert "5432" in hint
    assert result.stdout.splitlines()[-1].startswith("create index concurrently on public.notes")
    assert indexes(notes) == []


def test_an_index_that_is_there_needs_no_session(
    notes: Database, server: Server, database: str
) -> None:
    """As after its statements were run by hand, so that a re-embedding goes on through a pooler."""
    fill(notes)
    notes.execute("create index on notes using hnsw (embedding vector_cosine_ops)")
    with (
        pgbouncer(server.url) as url,
        PostgresQueue(Server(server.url, url).url_of(database), "tests") as queue,
    ):
        assert build_index(queue, "notes").outcome == "present"
        with pytest.raises(SettingsError, match="pooler in transaction mode"):
            build_index(queue, "notes", rebuild=True)


def test_through_a_pooler_in_session_mode_the_index_is_built(
    notes: Database, worker: Worker, server: Server, database: str
) -> None:
    fill(notes)
    with pgbouncer(server.url, mode="session") as url:
        result = worker("index", "notes", DATABASE_URL=Server(server.url, url).url_of(database))
    assert result.returncode == 0, result.stderr
    assert indexes(notes) == [(NEAREST, True)]


# -- others


def test_it_names_the_writer_that_it_waits_for(
    notes: Database, start: Start, connect: Connect
) -> None:
    fill(notes)
    with writer(connect) as other:
        command = start("index", "notes")
        line = await_line(command, "slow writer")
        assert "waiting for writers before build" in line
        assert f"process {other.info.backend_pid} (slow writer)" in line
    assert command.wait(30) == 0
    assert indexes(notes) == [(NEAREST, True)]


def test_a_terminal_shows_the_progress_in_a_line_that_changes(
    notes: Database, start: Start, connect: Connect
) -> None:
    fill(notes)
    controller, terminal = pty.openpty()
    shown = b""
    with writer(connect):
        command = start("index", "notes", stderr=terminal, TERM="xterm", COLUMNS="200")
        os.close(terminal)
        while b"slow writer" not in shown:
            shown += os.read(controller, 4096)
    with ThreadPoolExecutor() as threads:
        threads.submit(_read_all, controller)
        assert command.wait(30) == 0
    os.close(controller)
    assert b"waiting for writers before build: process" in shown
    assert b"\r" in shown


def _read_all(controller: int) -> None:
    """Read what a terminal shows until its other end is closed."""
    with suppress(OSError):
        while os.read(controller, 4096):
            pass


def test_of_two_at_once_one_builds_and_the_other_is_told_who(
    notes: Database, start: Start, worker: Worker, connect: Connect
) -> None:
    with writer(connect):
        first = start("index", "notes")
        await_line(first, "slow writer")
        cause, hint = refused(worker("index", "notes"), 1)
        assert re.search(r"process \d+ \(.+:\d+\) builds an index of notes.embedding now", cause)
        assert "Wait" in hint
    assert first.wait(30) == 0
    assert indexes(notes) == [(NEAREST, True)]


def test_a_build_of_somebody_else_is_left_alone(
    notes: Database, worker: Worker, connect: Connect
) -> None:
    fill(notes)
    other = connect()
    other.execute("set application_name = 'somebody'")
    with ThreadPoolExecutor() as threads:
        with old_snapshot(connect):
            build = threads.submit(
                other.execute, "create index concurrently on notes using hnsw (embedding"
                " vector_cosine_ops)"
            )  # fmt: skip
            eventually(lambda: indexes(notes) == [(NEAREST, False)], 20)
            cause, _ = refused(worker("index", "notes"), 1)
            assert "(somebody) builds an index of public.notes now" in cause
        build.result()
    assert indexes(notes) == [(NEAREST, True)]


# -- interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_is_cancelled_and_leaves_nothing(
    notes: Database, start: Start, connect: Connect, number: int
) -> None:
    fill(notes)
    with old_snapshot(connect):
        command = start("index", "notes")
        await_line(command, "slow reader")
        assert indexes(notes) == [(NEAREST, False)]
        command.send_signal(number)
        stderr = command.communicate(30)[1]
        assert command.returncode == 130
        assert "the same command begins again" in stderr
        assert indexes(notes) == []
        assert not is_building(notes)


def test_an_interrupted_rebuild_leaves_the_old_index(
    notes: Database, start: Start, worker: Worker, connect: Connect
) -> None:
    fill(notes)
    assert worker("index", "notes").returncode == 0
    with old_snapshot(connect):
        command = start("index", "notes", "--rebuild")
        await_line(command, "slow reader")
        assert len(indexes(notes)) == 2
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
        assert indexes(notes) == [(NEAREST, True)]


def test_what_an_open_transaction_keeps_is_named_and_removed_by_the_next_call(
    notes: Database, start: Start, worker: Worker, connect: Connect
) -> None:
    fill(notes)
    with writer(connect):
        command = start("index", "notes")
        await_line(command, "slow writer")
        command.send_signal(signal.SIGINT)
        stderr = command.communicate(30)[1]
        assert command.returncode == 130, stderr
        assert "kept the invalid index public.notes_embedding_idx from being dropped" in stderr
    assert [is_valid for _, is_valid in indexes(notes)] == [False]
    assert worker("index", "notes").returncode == 0
    assert indexes(notes) == [(NEAREST, True)]


def test_a_killed_build_ends_on_the_server_and_the_next_call_removes_what_it_left(
    notes: Database, start: Start, worker: Worker, connect: Connect
) -> None:
    fill(notes)
    with old_snapshot(connect):
        command = start("index", "notes")
        await_line(command, "slow reader")
        command.kill()
        command.wait(10)
        eventually(lambda: not is_building(notes), 20)
    assert indexes(notes) == [(NEAREST, False)]
    result = worker("index", "notes")
    assert (result.returncode, result.stdout) == (0, "Built: public.notes_embedding_idx\n")
    assert indexes(notes) == [(NEAREST, True)]


def test_invalid_indexes_of_another_definition_are_left_alone(
    notes: Database, worker: Worker
) -> None:
    fill(notes)
    for definition in ("(embedding vector_l2_ops)", "(embedding vector_cosine_ops) with (m = 8)",
                       "(embedding vector_cosine_ops) where id > 0",
                       "(embedding vector_cosine_ops)"):  # fmt: skip
        notes.execute(f"create index on notes using hnsw {definition}".encode())
    notes.execute(
        "update pg_index set indisvalid = false"
        " where indexrelid::regclass::text ~ '^notes_embedding_idx'"
    )
    others = indexes(notes)[:-1]
    assert worker("index", "notes").returncode == 0
    assert indexes(notes) == [*others, (NEAREST, True)]
