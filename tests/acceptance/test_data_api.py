"""The command line over the Data API: a URL, a key, and nothing else in the environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import refused
from tests.conftest import IN_CI, Database, rows, run_worker
from tests.supabase_project import NO_SUPABASE, Project, supabase_is_here

pytestmark = pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)

Completed = subprocess.CompletedProcess[str]
Api = Callable[..., Completed]


@pytest.fixture
def notes(owner: Database) -> Database:
    """A watched table `notes (id bigint, body, embedding vector(256))` of ten rows."""
    owner.execute("create table notes (id bigint primary key, body text)")
    owner.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")
    owner.execute("insert into notes select i, 'note number ' || i from generate_series(1, 10) i")
    owner.execute("insert into notes values (11, 'the invoice was paid twice')")
    return owner


@pytest.fixture
def api(project: Project, tmp_path: Path) -> Api:
    """Runs the command line with nothing but the URL of the project and its key."""

    def api(*arguments: str, **environment: str) -> Completed:
        known = {"SUPABASE_URL": project.url, "SUPABASE_SERVICE_ROLE_KEY": project.secret_key}
        return run_worker(*arguments, cwd=tmp_path, environment=known | environment)

    return api


@pytest.mark.usefixtures("notes")
def test_the_whole_way_from_a_text_to_a_search(api: Api, owner: Database) -> None:
    done = api("process", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["completed"] == 11
    [found] = json.loads(api("search", "charged two times", "--limit", "1", "--json").stdout)
    assert found["content"] == "the invoice was paid twice"
    [column] = json.loads(api("status", "--json").stdout)["columns"]
    assert (column["completed"], column["coverage"], column["oldest_due"]) == (11, 100.0, None)
    assert "notes" in api("targets").stdout
    assert rows(owner, "select distinct status from embedding_queue") == [("completed",)]


@pytest.mark.usefixtures("notes")
def test_the_queue_is_steered(api: Api, owner: Database) -> None:
    owner.execute("truncate embedding_queue")
    assert api("backfill", "--batch", "4").stdout == "Enqueued: 11\n"
    assert "11" in api("process", "--dry-run").stdout
    owner.execute("update embedding_queue set status = 'failed', error_message = 'why'")
    assert "why" in api("status").stdout
    assert api("requeue", "--failed").stdout == "Requeued: 11\n"
    assert api("process", "--limit", "3").returncode == 0


def test_the_names_of_a_next_js_project_do(api: Api, project: Project) -> None:
    result = api("status", SUPABASE_URL="", NEXT_PUBLIC_SUPABASE_URL=f"{project.url}/")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["migrate"],
        ["watch", "notes", "--source", "body", "--column", "embedding"],
        ["unwatch", "notes", "--column", "embedding"],
    ],
)
def test_what_changes_the_schema_is_told_to_take_the_database(api: Api, command: list[str]) -> None:
    cause, hint = refused(api(*command), 2)
    assert "the Data API cannot change the schema" in cause
    assert "DATABASE_URL" in hint
    assert "supabase db push" in hint


def test_a_wrong_key_is_told_and_not_repeated(api: Api) -> None:
    result = api("process", SUPABASE_SERVICE_ROLE_KEY="sb_secret_hunter2")
    cause, hint = refused(result, 2)
    assert "refuses the key" in cause
    assert "SUPABASE_SERVICE_ROLE_KEY" in hint
    assert "hunter2" not in result.stdout + result.stderr


def test_the_key_for_browsers_is_told_before_it_is_sent(api: Api, project: Project) -> None:
    result = api("process", SUPABASE_SERVICE_ROLE_KEY=project.publishable_key)
    cause, _ = refused(result, 2)
    assert "the key for browsers" in cause
    assert project.publishable_key not in result.stderr


def test_a_project_that_is_out_of_reach_is_told(api: Api) -> None:
    cause, hint = refused(api("status", SUPABASE_URL="http://127.0.0.1:9"), 1)
    assert "cannot be reached" in cause
    assert "SUPABASE_URL" in hint


@pytest.mark.only_in_full
def test_files_are_read_over_the_data_api(
    project: Project, owner: Database, tmp_path: Path
) -> None:
    root = tmp_path / "library"
    root.mkdir()
    (root / "pump.md").write_text("# The pump\n\nOpen the valve before you start it.")
    (root / "nothing.pdf").write_bytes(b"%PDF-1.4\n")
    host = {"FILES_HOST": "here"}
    direct = host | {"DATABASE_URL": project.database_url}
    api = host | {"SUPABASE_URL": project.url, "SUPABASE_SERVICE_ROLE_KEY": project.secret_key}
    added = run_worker("files", "add", str(root), cwd=tmp_path, environment=direct)
    assert added.returncode == 0, added.stderr
    for command in (["files", "scan"], ["process"]):
        done = run_worker(*command, cwd=tmp_path, environment=api)
        assert done.returncode == 0, done.stderr
    assert rows(owner, "select path, state, error_class from embedding_file_states order by 1") == [
        ("nothing.pdf", "unread", "damaged"),
        ("pump.md", "searchable", None),
    ]
    listed = run_worker("files", "list", "pump", "--json", cwd=tmp_path, environment=api)
    assert [file["path"] for file in json.loads(listed.stdout)] == ["pump.md"]
    searched = run_worker("search", "valve", "--file", "*.md", cwd=tmp_path, environment=api)
    assert "pump.md  [The pump]" in searched.stdout
