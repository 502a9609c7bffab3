"""`worker recheck`: what changed without a write is found, and nothing else is paid for."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.conftest import fill, refused, statuses
from tests.conftest import Database, Worker
from tests.openai_server import OpenAIServer
from tests.unit.test_documentation import section


@pytest.fixture
def embedded(notes: Database, worker: Worker, with_openai: dict[str, str]) -> Database:
    """Five notes with their vectors, and two that changed while the triggers were off."""
    fill(notes, 5)
    assert worker("process", **with_openai).returncode == 0
    notes.execute("alter table notes disable trigger user")
    notes.execute("update notes set body = 'changed ' || id where id in (2, 4)")
    notes.execute("insert into notes values (6, 'new')")
    notes.execute("alter table notes enable trigger user")
    return notes


def test_only_what_changed_is_embedded_again(
    embedded: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    result = worker("recheck")
    assert result.stdout == "Checked: 5\nChanged: 2\nMissing: 1\n"
    assert (result.stderr, result.returncode) == ("hint: now `worker process`\n", 0)
    asked = len(openai.requests)
    assert worker("process", **with_openai).returncode == 0
    [request] = openai.requests[asked:]
    assert sorted(request.body["input"]) == ["changed 2", "changed 4", "new"]
    assert worker("recheck").stdout == "Checked: 6\nChanged: 0\nMissing: 0\n"


def test_a_dry_run_counts_and_changes_nothing(embedded: Database, worker: Worker) -> None:
    result = worker("recheck", "--table", "notes", "--column", "embedding", "--dry-run", "--json")
    assert json.loads(result.stdout) == {"checked": 5, "changed": 2, "missing": 1}
    assert result.stderr == ""
    assert statuses(embedded) == {"completed": 5}
    for field in json.loads(result.stdout):
        assert f"| `{field}` |" in section("recheck")


@pytest.mark.usefixtures("notes")
def test_a_table_that_nobody_watches_is_refused(worker: Worker) -> None:
    cause, _ = refused(worker("recheck", "--table", "elsewhere"), 2)
    assert "elsewhere" in cause


def test_doctor_finds_it_by_a_sample(
    embedded: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    result = worker("doctor", **with_openai)
    assert result.returncode == 1
    assert (
        "problem: notes.embedding: 2 of 5 texts differ from what was embedded, and no trigger saw"
        " it\n  hint: Run `worker recheck --table notes --column embedding`, then `worker process`."
    ) in result.stdout
