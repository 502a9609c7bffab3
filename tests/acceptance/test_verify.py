"""`worker verify`: what it prints, the files it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import worker as api
from tests.acceptance.conftest import fill, refused
from tests.conftest import Database, Worker
from tests.openai_server import OpenAIServer, out_of_quota
from tests.unit.test_documentation import section
from worker.settings import Settings


@pytest.fixture
def embedded(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> Database:
    """Twenty notes with their vectors."""
    fill(notes, 20)
    assert worker("process", **with_openai).returncode == 0
    openai.requests.clear()
    return notes


def plant(notes: Database) -> None:
    """Null one vector and overwrite another one, with no trigger noticing."""
    notes.execute("set session_replication_role = replica")
    notes.execute("update notes set embedding = null where id = 3")
    notes.execute(
        "update notes set embedding = (select embedding from notes where id = 5) where id = 4"
    )
    notes.execute("reset session_replication_role")


@pytest.mark.usefixtures("embedded")
def test_sound_vectors_pass(worker: Worker, with_openai: dict[str, str]) -> None:
    result = worker("verify", "notes", **with_openai)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "notes.embedding: vectors of openai:text-embedding-3-small"
    assert lines[-1].startswith("passed: ")
    assert any(line.split() == ["missing", "ok", "rows", "20,", "texts", "20,", "vectors", "20"]
               for line in lines)  # fmt: skip


def test_faults_are_printed_with_their_records_and_what_to_do(
    embedded: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    plant(embedded)
    result = worker("verify", "notes", "--sample", "20", **with_openai)
    assert result.returncode == 1
    assert result.stderr == ""
    assert (
        "problem: missing: texts whose vector was removed: 1\n  records: 3\n  hint: Run `worker"
        " verify notes --column embedding --repair`, then `worker process`.\n"
    ) in result.stdout
    assert "vectors that the model does not give for their text: 1 of 19\n  records: 4\n" in (
        result.stdout
    )
    checks = len(json.loads(worker("verify", "notes", "--json", **with_openai).stdout)[0]["checks"])
    assert result.stdout.endswith(f"not passed: 3 checks of {checks} found a problem\n")


def test_what_it_advises_repairs_what_it_found(
    embedded: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    plant(embedded)
    repair = ["verify", "notes", "--column", "embedding", "--repair", "--yes"]
    for command in (repair, ["process"]):
        assert worker(*command, **with_openai).returncode == 0
    assert worker("verify", "notes", **with_openai).returncode == 0


def test_the_result_as_json_is_a_contract(
    embedded: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    plant(embedded)
    [document] = json.loads(worker("verify", "notes", "--json", **with_openai).stdout)
    assert (document["column"], document["passed"]) == ("notes.embedding", False)
    for field in [*document, *document["checks"][0]]:
        assert f"| `{field}` |" in section("verify"), field
    for check in document["checks"]:
        assert f"| `{check['name']}` |" in section("verify")
        for figure in check["figures"]:
            assert f"`{figure}`" in section("verify"), figure


def test_reports_are_written_beside_the_result(
    embedded: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    plant(embedded)
    files = [tmp_path / "report.html", tmp_path / "report.md"]
    options = [part for file in files for part in ("--report", str(file))]
    result = worker("verify", *options, "--json", **with_openai)
    assert [column["passed"] for column in json.loads(result.stdout)] == [False]
    assert result.stderr.splitlines() == [f"written: {file}" for file in files]
    page, markdown = (file.read_text() for file in files)
    assert "texts whose vector was removed: 1" in page
    assert "texts whose vector was removed\\: 1" in markdown


def test_a_model_that_is_out_is_said_and_does_not_pass(
    embedded: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    openai.faults += [out_of_quota] * 50
    result = worker("verify", "notes", **with_openai)
    assert result.returncode == 1
    assert "note: sample: not checked: " in result.stdout
    assert result.stdout.endswith("not passed: not checked: sample\n")


def test_what_cannot_work_is_refused_before_anything_is_read(
    embedded: Database,
    worker: Worker,
    with_openai: dict[str, str],
    openai: OpenAIServer,
    tmp_path: Path,
) -> None:
    missing = tmp_path / "nowhere" / "report.html"
    cause, _ = refused(worker("verify", "notes", "--report", str(missing), **with_openai), 2)
    assert cause == f"{missing} cannot be written"
    report = str(tmp_path / "report.pdf")
    cause, _ = refused(worker("verify", "notes", "--report", report, **with_openai), 2)
    assert cause == f"{report} is neither HTML nor Markdown"
    cause, _ = refused(worker("verify", "--against", "other", **with_openai), 2)
    assert cause == "--against is for the columns of one table"
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "note"}\n')
    cause, hint = refused(worker("verify", "notes", "--queries", str(queries), **with_openai), 2)
    assert cause == "the queries are for a comparison of two columns"
    assert "--against" in hint
    cause, _ = refused(worker("verify", "notes", "--qrels", str(queries), **with_openai), 2)
    assert cause == "--qrels judges nothing without queries"
    cause, _ = refused(worker("verify", "notes", "--column", "nope", **with_openai), 2)
    assert "nope" in cause
    assert openai.requests == []


def test_the_python_api_does_the_same(
    embedded: Database, database_url: str, openai: OpenAIServer
) -> None:
    settings = Settings(
        database_url=database_url,
        embedding_model="openai:text-embedding-3-small",
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )
    read: list[int] = []
    with api.open_queue(settings) as queue:
        result = api.verify(queue, settings, "notes", on_rows=read.append)
    assert (result.passed, read) == (True, [20])


@pytest.mark.usefixtures("embedded")
def test_damage_is_repaired_and_said(
    embedded: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    plant(embedded)
    cause, _ = refused(worker("verify", "--repair", **with_openai), 2)
    assert cause.startswith("notes.embedding: 20 vectors, 1 lost, 1 overwritten; a repair writes")
    assert openai.requests == []
    result = worker("verify", "--repair", "--yes", "--repair-budget", "0", **with_openai)
    assert "note: there is no backup at " in result.stderr
    assert result.returncode == 1
    assert result.stdout == (
        "notes.embedding: 20 vectors, 1 lost, 1 overwritten\n  repaired: 0 from the cache,"
        " 0 from a backup, 0 to be embedded again ($0), 2 left: over the budget\n"
    )
    assert "damaged: 2 of 20 vectors of notes.embedding" in worker("status", **with_openai).stdout
    result = worker("verify", "notes", "--repair", "--yes", "--json", **with_openai)
    assert result.returncode == 0
    [found] = json.loads(result.stdout)
    assert (found["lost"], found["overwritten"], found["repaired"]["requeued"]) == (1, 1, 2)
    for field in [*found, *found["repaired"]]:
        assert f"`{field}`" in section("verify"), field
    assert worker("process", **with_openai).returncode == 0
    assert worker("verify", **with_openai).returncode == 0
    assert worker("verify", "--repair", **with_openai).stdout == (
        "notes.embedding: 20 vectors, all sound\n"
    )
