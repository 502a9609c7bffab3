"""`worker list`, `worker reprocess` and `worker stats`, each as a process."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from rich.cells import cell_len

from tests.acceptance.conftest import Ask, fill, refused, statuses
from tests.acceptance.test_commands import documented_fields, one_document
from tests.conftest import Database, Worker, rows, run_worker

EVIL = "\x1b]0;owned\x07 a \x1b[31mred\x1b[0m text \u202egnp.exe"


@pytest.fixture
def listed(notes: Database) -> Database:
    """Seven jobs: 1 is done, 2 failed, 3 is processing, 4 has a text that no terminal may see."""
    fill(notes, 7)
    notes.execute("update notes set body = %s where id = 4", [EVIL])
    notes.execute("update notes set body = repeat('漢字 and long ', 100) where id = 5")
    notes.execute("update embedding_queue set status = 'completed' where record_id = '1'")
    notes.execute(
        "update embedding_queue set status = 'failed', attempts = 5, error_class = 'rejected',"
        " error_message = %s where record_id = '2'",
        ["the model said no " * 20 + EVIL],
    )
    notes.execute(
        "update embedding_queue set status = 'processing', worker = 'me',"
        " lease = gen_random_uuid(), lease_expires_at = now() + interval '1 hour 90 s'"
        " where record_id = '3'"
    )
    notes.execute(
        "update embedding_queue set available_at = now() - interval '2 hours' where record_id = '6'"
    )
    notes.execute(
        "update embedding_queue set available_at = now() + interval '3:01:30' where record_id = '7'"
    )
    return notes


# worker list


def test_list_shows_each_job_with_its_text_within_80_columns(
    listed: Database, worker: Worker
) -> None:
    result = worker("list")
    assert (result.stderr, result.returncode) == ("", 0)
    lines = result.stdout.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert heads == [f"notes.embedding  {record}" for record in (3, 6, 4, 5, 7, 2)]
    assert all(cell_len(line) <= 80 for line in lines)
    assert lines[1] == "    processing, 0 attempts, lease ends in 1 h 1 min, me"
    assert lines[2] == '    "note number 3"'
    assert lines[4] == "    pending, 0 attempts, due for 2 h"
    assert lines[13] == "    pending, 0 attempts, due in 3 h 1 min"
    assert lines[16].startswith("    failed, 5 attempts, ")
    assert lines[17].startswith("    rejected: the model said no the model said no ")
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "\u202e" not in result.stdout
    assert lines[8].startswith('    "\ufffd]0;owned')


def test_a_list_of_wide_names_keeps_to_80_columns(db: Database, worker: Worker) -> None:
    db.execute('create table "記録の一覧表" (id text primary key, body text)')
    db.execute("select watch_embeddings('\"記録の一覧表\"', 'body', 'embedding', dimensions => 8)")
    db.execute("insert into \"記録の一覧表\" values (repeat('識別', 40), 'words')")
    lines = worker("list").stdout.splitlines()
    assert lines[0].startswith('"記録の一覧表".embedding  識別')
    assert all(cell_len(line) <= 80 for line in lines)


def test_list_takes_states_together_a_table_and_a_limit(listed: Database, worker: Worker) -> None:
    def records(*arguments: str) -> list[str]:
        found = one_document(worker("list", "--json", *arguments).stdout)
        return [job["record_id"] for job in found]

    assert records("--failed") == ["2"]
    assert records("--pending", "--limit", "2") == ["6", "4"]
    assert records("--failed", "--processing", "--column", "embedding") == ["3", "2"]
    listed.execute("create table others (id bigint primary key, body text)")
    listed.execute("select watch_embeddings('others', 'body', 'embedding', dimensions => 8)")
    assert records("--table", "others") == []
    result = worker("list", "--table", "others")
    assert (result.stdout, result.returncode) == ("", 0)
    assert result.stderr == "no job is processing or pending or failed\n"
    assert worker("list", "--limit", "1").stderr.startswith("hint: these are the first 1;")


def test_list_as_json_has_the_documented_fields(listed: Database, worker: Worker) -> None:
    found = one_document(worker("list", "--json").stdout)
    for job in found:
        assert list(job) == documented_fields("## worker list", "With `--json`")
    assert found[2]["preview"] == EVIL
    assert found[-1]["error_class"] == "rejected"


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--limit", "1001"], ["--done"]])
def test_list_refuses_what_it_does_not_know(tmp_path: Path, arguments: list[str]) -> None:
    result = run_worker("list", *arguments, cwd=tmp_path, environment={})
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_list_of_a_table_that_is_not_watched_says_so(listed: Database, worker: Worker) -> None:
    assert refused(worker("list", "--table", "nope"), 2)[0] == "there is no table nope"


# worker reprocess


@pytest.mark.parametrize(
    ("pattern", "requeued"),
    [("*number 6", 1), ("note number ?", 5), ("~(?i)NUMBER [36]$", 2), ("2", 1), ("*nobody*", 0)],
)
def test_reprocess_with_yes_requeues_what_matches(
    listed: Database, worker: Worker, pattern: str, requeued: int
) -> None:
    listed.execute("update embedding_queue set content_hash = 'x', available_at = 'epoch'")
    result = worker("reprocess", pattern, "--yes")
    assert result.stdout == f"Requeued: {requeued}\n"
    assert result.stderr == ("" if requeued else "nothing in the queue matches\n")
    assert result.returncode == 0
    found = rows(
        listed,
        "select count(*) from embedding_queue where status = 'pending' and content_hash is null"
        " and available_at > 'epoch'",
    )
    assert found == [(requeued,)]


def test_reprocess_as_json_has_the_documented_fields(listed: Database, worker: Worker) -> None:
    found = one_document(worker("reprocess", "*number*", "--yes", "--json").stdout)
    assert list(found) == documented_fields("## worker reprocess", "With `--json`")
    assert found["requeued"] > 0


def test_reprocess_without_a_terminal_shows_what_matches_and_refuses(
    listed: Database, worker: Worker
) -> None:
    before = rows(listed, "select * from embedding_queue order by id")
    result = worker("reprocess", "*")
    assert (result.stdout, result.returncode) == ("", 2)
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "7 records match:",
        "  notes.embedding  1",
        '    completed: "note number 1"',
    ]
    assert lines[-3:] == [
        "  and 4 more",
        "error: cancelled: nothing was requeued",
        "hint: Add --yes to skip the question.",
    ]
    assert rows(listed, "select * from embedding_queue order by id") == before
    nothing = worker("reprocess", "*nobody*")
    assert (nothing.stdout, nothing.returncode) == ("Requeued: 0\n", 0)
    assert nothing.stderr == "nothing in the queue matches\n"
    listed.execute("update notes set body = %s where id = 4", [EVIL])
    assert "\x1b" not in worker("reprocess", "*red*").stderr


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0)])
def test_reprocess_at_a_terminal_asks(listed: Database, ask: Ask, answer: str, code: int) -> None:
    result = ask(answer, "reprocess", "*number 1")
    assert "1 record matches:" in result.stderr
    assert "Embed these again? [y/N]" in result.stderr
    assert result.returncode == code
    assert statuses(listed).get("completed", 0) == (answer == "n")


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("", "the pattern is empty"),
        ("~", "the pattern is empty"),
        ("~a(b", "invalid regular expression: parentheses () not balanced"),
        ("~[z-a]", "invalid regular expression: invalid character range"),
    ],
)
def test_reprocess_refuses_a_pattern_that_is_none(
    notes: Database, worker: Worker, pattern: str, cause: str
) -> None:
    given, hint = refused(worker("reprocess", pattern, "--yes"), 2)
    assert given == cause
    assert hint


def test_reprocess_of_a_locked_table_says_so(
    listed: Database, database_url: str, worker: Worker
) -> None:
    with psycopg.connect(database_url) as holding:
        holding.execute("lock table notes")
        cause, hint = refused(worker("reprocess", "*", "--yes"), 1)
    assert cause == "table notes is locked by another session"
    assert hint == "Try again when that session is done with it."
    assert statuses(listed)["failed"] == 1


# worker stats


def test_stats_tells_what_was_done_and_what_failed(
    local_notes: Database, worker: Worker, tmp_path: Path
) -> None:
    result = worker("stats")
    assert result.returncode == 0
    assert "Request time: unknown\nFrom due to vector: unknown\n" in result.stdout
    assert result.stderr.startswith("hint: no work was reported in that time")
    fill(local_notes, 5)
    assert worker("process").returncode == 0
    local_notes.execute(
        "update embedding_queue set status = 'failed', error_class = 'rejected',"
        " error_message = %s where record_id = '2'",
        [EVIL],
    )
    result = worker("stats", "--since", "30m")
    assert (result.stderr, result.returncode) == ("", 0)
    lines = result.stdout.splitlines()
    assert lines[:3] == ["Completed: 5", "Failed: 0", "Requests: 1"]
    assert lines[4] == "Cost: $0"
    assert lines[5].startswith("Request time: p50 ")
    assert lines[6].startswith("From due to vector: p50 ")
    assert lines[8].split() == ["hour", "completed", "failed", "rows/s"]
    assert lines[9].endswith("#" * 30) or lines[10].endswith("#" * 30)
    assert lines[-2].split() == ["failed", "class", "latest", "reason"]
    assert lines[-1].split()[:2] == ["1", "rejected"]
    assert "\x1b" not in result.stdout


def test_stats_as_json_has_the_documented_fields(local_notes: Database, worker: Worker) -> None:
    fill(local_notes, 2)
    assert worker("process").returncode == 0
    local_notes.execute(
        "update embedding_queue set status = 'failed', error_class = 'rejected',"
        " error_message = 'no' where record_id = '2'"
    )
    found = one_document(worker("stats", "--json", "--since", "2d").stdout)
    assert list(found) == documented_fields("## worker stats", "With `--json`")
    assert found["since_seconds"] == 172_800
    assert found["completed"] == sum(hour["completed"] for hour in found["hours"]) == 2
    for hour in found["hours"]:
        assert list(hour) == documented_fields("## worker stats", "In `hours`")
    for failure in found["failures"]:
        assert list(failure) == documented_fields("## worker stats", "In `failures`")


@pytest.mark.parametrize(
    ("since", "cause"),
    [
        ("8d", "statistics are kept for 7 days: `8d`"),
        ("169h", "statistics are kept for 7 days: `169h`"),
        ("24", "invalid duration: `24`"),
        ("-1h", "invalid duration: `-1h`"),
    ],
)
def test_stats_refuses_a_span_that_is_none_or_too_long(
    tmp_path: Path, since: str, cause: str
) -> None:
    # It does not even look for the database.
    environment = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}
    result = run_worker("stats", f"--since={since}", cwd=tmp_path, environment=environment)
    given, hint = refused(result, 2)
    assert given == cause
    assert "7d" in hint
