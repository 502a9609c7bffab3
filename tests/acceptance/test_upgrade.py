"""Schema and workers are upgraded one after the other, while workers run: docs/upgrade.md."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scripts.lib.release import released
from tests.acceptance.conftest import WIDTH, Completed, Held, Start, fill, refused, statuses
from tests.conftest import (
    REPOSITORY,
    Database,
    create_notes,
    eventually,
    rows,
    run_worker,
    value,
)
from tests.openai_server import OpenAIServer
from worker.database.migrations import SCHEMA_VERSION, Migration, migrations
from worker.errors import SchemaError
from worker.operations import migrating
from worker.queue.postgres import PostgresQueue

# What a minor release may do to the schema under workers of this one: it raises the version, adds a
# column and adds an argument to a function that they call all the time.
OF_THE_NEXT = [
    Migration(
        "20991231000001",
        "next_schema_version",
        "create or replace function public.embedding_schema_version() returns integer language sql"
        f" immutable set search_path = '', pg_temp as $$ select {SCHEMA_VERSION + 1} $$",
    ),
    Migration(
        "20991231000002",
        "claims_with_a_reason",
        """
        alter table public.embedding_queue add column reason text;
        do $$
        declare
            definition text := pg_get_functiondef('public.claim_embeddings'::regproc);
        begin
            drop function public.claim_embeddings;
            execute replace(definition, e')\\n RETURNS', e', reason text default null)\\n RETURNS');
        end $$;
        select embedding.let_workers_call('public.claim_embeddings');
        """,
    ),
]


def test_the_schema_of_the_next_release_is_installed_under_running_workers(
    notes: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    openai: OpenAIServer,
    with_openai: dict[str, str],
    held: Held,
) -> None:
    monkeypatch.setattr(migrating, "migrations", lambda: [*migrations(), *OF_THE_NEXT])
    fill(notes, 40)
    running = start("run", "--batch-size", "10", **with_openai)
    assert held.arrived.wait(30)
    with PostgresQueue(database_url, "tests") as queue:
        assert migrating.migrate(queue, tmp_path) == OF_THE_NEXT
        assert queue.check_schema() == 1
    held.let_go.set()
    notes.execute("insert into notes select id, 'new ' || id from generate_series(41, 60) as id")
    eventually(lambda: statuses(notes) == {"completed": 60}, within=30)
    texts = [text for request in openai.requests for text in request.texts]
    assert sorted(texts) == sorted(body for (body,) in rows(notes, "select body from notes"))
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 0


def migrations_before(name: str) -> list[Migration]:
    """Those of a release that had not come as far as this one."""
    names = [migration.name for migration in migrations()]
    return migrations()[: names.index(name)]


def apply(url: str, some: Sequence[Migration]) -> None:
    with PostgresQueue(url, "tests") as queue:
        for migration in some:
            queue.apply(migration)


def test_an_older_schema_is_enough_to_work_and_is_upgraded_with_its_jobs_and_vectors(
    empty_db: Database, empty_database_url: str, tmp_path: Path, with_openai: dict[str, str]
) -> None:
    environment = {"DATABASE_URL": empty_database_url, **with_openai}

    def worker(*arguments: str) -> Completed:
        return run_worker(*arguments, cwd=tmp_path, environment=environment)

    older = migrations_before("overview")
    apply(empty_database_url, older)
    create_notes(empty_db)
    fill(empty_db, 5)
    assert worker("process").returncode == 0
    empty_db.execute("insert into notes values (6, 'pending'), (7, null)")
    cause, hint = refused(worker("status"), 3)
    assert cause == (
        "this database lacks part of the SQL API:"
        " function public.embedding_overview() does not exist"
    )
    assert "worker migrate" in hint

    stored = "select * from embedding_queue order by id", "select * from notes order by id"
    before = [rows(empty_db, query) for query in stored]
    result = worker("migrate")
    assert len(result.stdout.splitlines()) == len(migrations()) - len(older) > 0
    assert [rows(empty_db, query) for query in stored] == before
    assert worker("status").returncode == 0
    assert worker("process").returncode == 0
    assert value(empty_db, "select vector_dims(embedding) from notes where id = 6") == WIDTH


def test_a_schema_without_batches_is_known_by_its_version(empty_database_url: str) -> None:
    apply(empty_database_url, migrations_before("schema_version_2"))
    with PostgresQueue(empty_database_url, "tests") as queue:
        assert (queue.check_schema(), queue.has_batches()) == (-1, False)
        with pytest.raises(SchemaError, match="list_batch_backfills"):
            queue.batch_backfills()
        for migration in migrations():
            queue.apply(migration)
        assert (queue.check_schema(), queue.has_batches()) == (0, True)


@pytest.fixture
def releases_before() -> dict[str, dict[str, str]]:
    """The files of each release whose schema is an earlier version than this one."""
    upgrade = (REPOSITORY / "docs/upgrade.md").read_text(encoding="utf-8")
    schema_of = dict(re.findall(r"^\| (\d+\.\d+) \| (\d+) \|$", upgrade, re.M))
    before = {
        version: files
        for version, files in released(REPOSITORY).items()
        if int(schema_of[version.rpartition(".")[0]]) < SCHEMA_VERSION
    }
    if not before:
        pytest.skip("this is the first minor release")
    return before


def test_this_worker_works_on_the_schema_of_the_minor_release_before(
    releases_before: dict[str, dict[str, str]],
    empty_db: Database,
    empty_database_url: str,
    tmp_path: Path,
    with_openai: dict[str, str],
) -> None:
    last = max(name for files in releases_before.values() for name in files)
    names = [f"migrations/{each.version}_{each.name}.sql" for each in migrations()]
    apply(empty_database_url, migrations()[: names.index(last) + 1])
    create_notes(empty_db)
    environment = {"DATABASE_URL": empty_database_url, **with_openai}
    assert_embeds(empty_db, tmp_path, environment)
    result = run_worker("status", cwd=tmp_path, environment=environment)
    assert (result.returncode, result.stderr) == (0, "")


def assert_embeds(db: Database, folder: Path, environment: Mapping[str, str]) -> None:
    """The worker that starts in a folder embeds new notes."""
    fill(db, 5)
    result = run_worker("process", cwd=folder, environment=environment)
    assert result.returncode == 0, result.stderr
    assert statuses(db) == {"completed": 5}


def test_the_worker_of_the_minor_release_before_works_on_this_schema(
    releases_before: dict[str, dict[str, str]],
    notes: Database,
    database_url: str,
    tmp_path: Path,
    with_openai: dict[str, str],
) -> None:
    tag = f"v{[*releases_before][-1]}"
    git = ["git", "-C", str(REPOSITORY), "archive", tag, "worker", "supabase"]
    archive = subprocess.run(git, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"this checkout lacks the tag {tag}")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    environment = {"DATABASE_URL": database_url, "PYTHONPATH": str(tmp_path), **with_openai}
    assert_embeds(notes, tmp_path, environment)
