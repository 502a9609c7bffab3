"""`worker files` and `worker search --file`, as people type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Ask, refused
from tests.acceptance.test_commands import documented_fields
from tests.conftest import Database, Worker, value

Files = Callable[..., Any]


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """A directory with three files."""
    root = tmp_path / "handbook"
    (root / "hr").mkdir(parents=True)
    (root / "hr" / "notice-period.md").write_text(
        "# Notice period\n\nThree months for all.\fThe end."
    )
    (root / "hr" / "parking.txt").write_text("The garage opens at seven.")
    (root / "draft.md").write_text("Not yet.")
    return root


@pytest.fixture
def files(worker: Worker) -> Files:
    """Runs `worker files …`, and returns what it prints; of `--json`, what that means."""

    def files(*arguments: str, code: int = 0, **environment: str) -> Any:
        result = worker("files", *arguments, **{"FILES_HOST": "here"} | environment)
        assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    return files


def documented(command: str) -> set[str]:
    """The fields of the JSON of a command."""
    return set(documented_fields(f"## {command}\n", "\n"))


def test_a_folder_from_its_beginning_to_its_end(
    files: Files, worker: Worker, handbook: Path, db: Database
) -> None:
    added = worker("files", "add", str(handbook), "--exclude", "draft*", FILES_HOST="here")
    assert added.stdout == f"Added: handbook <- {handbook}\n"
    assert added.stderr.startswith("hint: `worker run` finds its files")
    assert files("scan").startswith("handbook: 2 files, 2 new, ")
    assert "nothing has changed" in files("scan", "handbook")
    assert files("list", "notice").splitlines()[1].split() == [
        "handbook/hr/notice-period.md",
        "found",
        "-",
        "-",
    ]
    assert worker("process", FILES_HOST="here").returncode == 0
    listed = files("list", "--state", "searchable")
    assert len(listed.splitlines()) == 3
    found = worker("search", "how long before I may leave", "--file", "hr/*.md")
    assert "  hr/notice-period.md  [page 1, Notice period] Three months" in found.stdout
    assert worker("search", "garage").stdout.split()[1] == "hr/parking.txt"
    assert files("remove", str(handbook), "--yes") == "Removed: handbook with 2 files\n"
    assert value(db, "select count(*) from embedding_queue") == 0
    assert (handbook / "draft.md").exists()


def test_the_fields_of_json_are_those_of_the_documentation(
    files: Files, worker: Worker, handbook: Path, db: Database
) -> None:
    files("add", str(handbook))
    assert [set(each) for each in files("scan", "--json")] == [documented("worker files scan")]
    assert {frozenset(each) for each in files("list", "--json")} == {
        frozenset(documented("worker files list"))
    }
    [folder] = files("folders", "--json")
    assert set(folder) == documented("worker files folders")
    assert (folder["name"], folder["hosts"], folder["files"]) == ("handbook", ["here"], 3)
    worker("process", FILES_HOST="here")
    [match] = json.loads(worker("search", "garage", "--file", "*.txt", "--json").stdout)
    assert match["path"] == "hr/parking.txt"
    assert set(match) == documented("worker search")


def test_files_by_state_pattern_and_folder(files: Files, handbook: Path, db: Database) -> None:
    files("add", str(handbook))
    files("scan")
    db.execute(
        "update embedding_queue set status = 'failed', error_class = 'no_text',"
        " error_message = 'it has no text', attempts = 1"
        " where embedding_column = 'content'"
        "   and record_id = (select id::text from embedding_files where name = 'draft.md')"
    )

    def paths(*arguments: str) -> list[str]:
        return [file["path"] for file in files("list", *arguments, "--json")]

    assert paths("--failed") == ["draft.md"]
    assert paths("--pending") == ["hr/notice-period.md", "hr/parking.txt"]
    assert paths("--file", "*.{txt,pdf}") == ["hr/parking.txt"]
    assert paths("--file", "*", "--limit", "1") == ["draft.md"]
    assert paths("--folder", "handbook", "garage") == []
    assert "no_text: it has no text" in files("list", "--failed")
    assert files("list", "nothing-like-this") == ""


def test_a_second_folder_and_a_second_host(files: Files, handbook: Path, tmp_path: Path) -> None:
    files("add", str(handbook))
    other = tmp_path / "other" / "handbook"
    other.mkdir(parents=True)
    files("add", str(other), "--name", "other")
    files("add", str(handbook), FILES_HOST="there")
    hosts = {folder["name"]: folder["hosts"] for folder in files("folders", "--json")}
    assert hosts == {"handbook": ["here", "there"], "other": ["here"]}
    printed = files("folders").splitlines()
    assert printed[0].split() == ["name", "location", "hosts", "files", "skipped", "scanned"]


def test_a_problem_is_shown_and_is_the_exit_code(
    files: Files, worker: Worker, handbook: Path
) -> None:
    files("add", str(handbook))
    files("scan")
    handbook.rename(handbook.with_name("elsewhere"))
    result = worker("files", "scan", FILES_HOST="here")
    assert result.returncode == 1
    assert "nothing of it is deleted: it cannot be read: No such file" in result.stderr
    assert "nothing of it is deleted" in worker("files", "folders").stderr


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        (["add", "/nowhere/at/all"], "/nowhere/at/all: it cannot be read: No such", "Check"),
        (["add", ".", "--include", "a["], "the pattern `a[` is wrong", "Write it like"),
        (["add", "ftp://x"], "this is no folder: ftp://x", "Give the path of a directory"),
        (["add", "storage://x"], "S3_ENDPOINT, S3_REGION", "Copy them"),
        (["add", ".", "--model", "nonsense"], "no embedding model `nonsense`", "Give one like"),
        (["scan", "nothing"], "there is no folder nothing", "Choose one of: handbook."),
        (["remove", "nothing"], "there is no folder nothing", "Choose one of: handbook."),
        (["remove", "handbook"], "handbook with 0 files, their texts and", "Add --yes"),
        (["list", "--state", "found", "--failed"], "--state contradicts", "Use only one"),
        (["list", "--folder", "nothing"], "there is no folder nothing", "Choose one of"),
        (["list", "--file", "{"], "the pattern `{` is wrong", "Write it like"),
        (["add", "other", "--name", "handbook"], "there is a folder handbook already", "--name"),
        (["add", "handbook", "--dimensions", "64"], "have the dimensions 256 already", "reembed"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(
    files: Files, worker: Worker, handbook: Path, arguments: list[str], cause: str, hint: str
) -> None:
    (handbook.parent / "other").mkdir()
    files("add", str(handbook))
    before = files("folders", "--json")
    said = refused(worker("files", *arguments), 2)
    assert cause in said[0]
    assert hint in said[1]
    assert files("folders", "--json") == before


def test_a_folder_of_another_host_cannot_be_scanned_here(
    files: Files, handbook: Path, worker: Worker
) -> None:
    files("add", str(handbook))
    cause, hint = refused(worker("files", "scan", "handbook", FILES_HOST="there"), 2)
    assert cause == "folder handbook is not on this host, there, but on here"
    assert "FILES_HOST" in hint
    assert "has no folders" in worker("files", "scan", FILES_HOST="there").stderr


def test_removing_asks_before(files: Files, ask: Ask, handbook: Path) -> None:
    files("add", str(handbook))
    files("scan")
    refused_ = ask("n", "files", "remove", "handbook")
    assert "handbook with 3 files, their texts and their vectors will be removed" in refused_.stderr
    assert refused_.returncode == 2
    assert ask("y", "files", "remove", "handbook").stdout == "Removed: handbook with 3 files\n"


def test_a_search_of_too_many_files_is_refused(
    files: Files, worker: Worker, handbook: Path, db: Database
) -> None:
    files("add", str(handbook))
    db.execute(
        "insert into embedding_files (folder_id, path, size, stamp, version)"
        " select id, n || '.md', 1, '1', '1' from embedding_folders, generate_series(1, 10001) n"
    )
    cause, hint = refused(worker("search", "words", "--file", "*.md"), 2)
    assert cause == "more than 10000 files fit `*.md`"
    assert "pattern for fewer" in hint
    assert refused(worker("search", "words", "--file", "*", "--table", "docs"), 2)
    nothing = worker("search", "words", "--file", "*.pdf")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no such file is searchable yet" in nothing.stderr
