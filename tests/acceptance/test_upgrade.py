"""Schema and workers are upgraded one after the other, while workers run: docs/upgrade.md."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
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
from worker import __version__
from worker.database.migrations import SCHEMA_VERSION, Migration, migrations
from worker.queue.postgres import PostgresQueue

# What a minor release may do to the schema under workers of this one: it raises the version, adds a
# column and adds an argument to a function that they call all the time.
OF_THE_NEXT = {
    "20991231000001_next_schema_version.sql": f"""
        create or replace function public.embedding_schema_version()
        returns integer language sql immutable set search_path = '', pg_temp
        as $$ select {SCHEMA_VERSION + 1} $$;""",
    "20991231000002_claims_with_a_reason.sql": """
        alter table public.embedding_queue add column reason text;
        do $$
        declare
            definition text := pg_get_functiondef('public.claim_embeddings'::regproc);
        begin
            drop function public.claim_embeddings;
            execute replace(definition, e')\\n RETURNS', e', reason text default null)\\n RETURNS');
        end $$;
        select embedding.let_workers_call('public.claim_embeddings');""",
}

Next = Callable[..., Completed]


@pytest.fixture
def next_worker(tmp_path: Path, database_url: str, with_openai: dict[str, str]) -> Next:
    """Runs the command line of a next release, with its migrations, on the same database."""
    package = tmp_path / "next" / "worker"
    shutil.copytree(REPOSITORY / "worker", package)
    shutil.copytree(REPOSITORY / "supabase", package / "supabase")
    for name, sql in OF_THE_NEXT.items():
        (package / "supabase/migrations" / name).write_text(sql)
    versions = package / "database/migrations.py"
    ours = f"SCHEMA_VERSION = {SCHEMA_VERSION}\n"
    assert ours in versions.read_text()
    versions.write_text(
        versions.read_text().replace(ours, f"SCHEMA_VERSION = {SCHEMA_VERSION + 1}\n")
    )
    environment = {"DATABASE_URL": database_url, "PYTHONPATH": str(package.parent), **with_openai}
    return lambda *arguments: run_worker(*arguments, cwd=tmp_path, environment=environment)


def test_the_schema_of_the_next_release_is_installed_under_running_workers(
    notes: Database,
    start: Start,
    next_worker: Next,
    openai: OpenAIServer,
    with_openai: dict[str, str],
    held: Held,
) -> None:
    fill(notes, 40)
    running = start("run", "--batch-size", "10", **with_openai)
    assert held.arrived.wait(30)
    result = next_worker("migrate")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [name.removesuffix(".sql") for name in OF_THE_NEXT]
    held.let_go.set()
    notes.execute("insert into notes select id, 'new ' || id from generate_series(41, 60) as id")
    eventually(lambda: statuses(notes) == {"completed": 60}, within=30)
    texts = [text for request in openai.requests for text in request.texts]
    assert sorted(texts) == sorted(body for (body,) in rows(notes, "select body from notes"))
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 0


def test_a_worker_of_the_next_release_works_before_its_migrations(
    notes: Database, next_worker: Next
) -> None:
    fill(notes, 5)
    result = next_worker("process")
    assert result.returncode == 0, result.stderr
    assert statuses(notes) == {"completed": 5}


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


@pytest.fixture
def release_before() -> str:
    """The last release of the minor version before this one."""
    minor = __version__.rpartition(".")[0]
    earlier = [version for version in released(REPOSITORY) if version.rpartition(".")[0] != minor]
    if not earlier:
        pytest.skip("this is the first minor release")
    return earlier[-1]


def test_this_worker_works_on_the_schema_of_the_minor_release_before(
    release_before: str,
    empty_db: Database,
    empty_database_url: str,
    tmp_path: Path,
    with_openai: dict[str, str],
) -> None:
    releases = released(REPOSITORY)
    last = max(max(releases[version], default="") for version in until(releases, release_before))
    names = [f"migrations/{each.version}_{each.name}.sql" for each in migrations()]
    apply(empty_database_url, migrations()[: names.index(last) + 1])
    create_notes(empty_db)
    fill(empty_db, 5)
    environment = {"DATABASE_URL": empty_database_url, **with_openai}
    result = run_worker("process", cwd=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    assert statuses(empty_db) == {"completed": 5}


def until(releases: Iterable[str], last: str) -> list[str]:
    return [*takewhile(lambda version: version != last, releases), last]


def test_the_worker_of_the_minor_release_before_works_on_this_schema(
    release_before: str,
    notes: Database,
    database_url: str,
    tmp_path: Path,
    with_openai: dict[str, str],
) -> None:
    git = ["git", "-C", str(REPOSITORY), "archive", f"v{release_before}", "worker", "supabase"]
    archive = subprocess.run(git, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"this checkout lacks the tag v{release_before}")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    fill(notes, 5)
    environment = {"DATABASE_URL": database_url, "PYTHONPATH": str(tmp_path), **with_openai}
    result = run_worker("process", cwd=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    assert statuses(notes) == {"completed": 5}
