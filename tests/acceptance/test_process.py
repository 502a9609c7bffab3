"""`worker process` as a process: what it prints, what it exits with, what signals do to it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from tests.acceptance.conftest import Held, Start, fill, refused, statuses
from tests.command_line import Command
from tests.conftest import (
    REPOSITORY,
    Database,
    Worker,
    eventually,
    rest_in_full,
    rows,
    run_worker,
    value,
)
from tests.openai_server import (
    Answer,
    OpenAIServer,
    out_of_quota,
    rate_limited,
    vector_for,
    without_usage,
)
from worker.database.migrations import SCHEMA_VERSION, seed
from worker.queue.postgres import PostgresQueue

FIELDS = [
    "processed",
    "completed",
    "unchanged",
    "skipped",
    "dropped",
    "failed",
    "stale",
    "released",
    "success_rate",
    "elapsed_seconds",
    "rows_per_second",
    "cached",
    "passages_embedded",
    "passages_reused",
    "requests",
    "tokens",
    "cost",
    "ended",
    "error",
]


def vectors_are_right(notes: Database) -> bool:
    """Whether each row with a vector has that of its text."""
    found = rows(notes, "select body, embedding::real[] from notes where embedding is not null")
    return all(np.allclose(vector, vector_for(body, len(vector))) for body, vector in found)


def groups(notes: Database) -> list[tuple[int, float, float]]:
    """For each statement that completed jobs: how many, and when the first and the last of them."""
    return [
        (count, float(first), float(last))
        for count, first, last in rows(
            notes,
            "select count(*), min(extract(epoch from completed_at)),"
            " max(extract(epoch from completed_at)) from embedding_queue"
            " where status = 'completed' group by updated_at order by updated_at",
        )
    ]


# What it prints


def test_the_summary_is_that_of_the_issue(queue: PostgresQueue, worker: Worker) -> None:
    queue.run_script(seed())
    result = worker("process")
    assert re.fullmatch(
        r"=== PROCESSING SUMMARY ===\n"
        r"Total records processed: 60\n"
        r"Total errors: 0\n"
        r"Success rate: 100\.0%\n"
        r"Elapsed: \d+\.\d s\n"
        r"Rows per second: \d+\n"
        r"Passages: 41 embedded, 0 reused\n"
        r"Requests: [123]\n"
        r"Tokens: \d+\n",
        result.stdout,
    )
    assert (result.stderr, result.returncode) == ("", 0)


def test_with_nothing_due_it_ends_at_once_and_well(notes: Database, worker: Worker) -> None:
    result = worker("process")
    assert result.stdout.startswith(
        "=== PROCESSING SUMMARY ===\n"
        "Total records processed: 0\nTotal errors: 0\nSuccess rate: 100.0%\n"
    )
    assert "Tokens" not in result.stdout
    assert (result.stderr, result.returncode) == ("Nothing is due.\n", 0)


def test_json_has_the_documented_fields(local_notes: Database, worker: Worker) -> None:
    fill(local_notes, 3)
    result = worker("process", "--json")
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert list(found) == FIELDS
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = text.split("## worker process")[1].split("### Before it costs anything")[0]
    assert re.findall(r"^\| `(\w+)` \|", documented, re.M) == FIELDS
    assert found["elapsed_seconds"] > 0
    assert found["rows_per_second"] > 0
    assert found["tokens"] > 3
    del found["elapsed_seconds"], found["rows_per_second"], found["tokens"]
    assert found == dict.fromkeys(found, 0) | {
        "processed": 3,
        "completed": 3,
        "requests": 1,
        "success_rate": 100.0,
        "ended": None,
        "error": None,
    }


def test_requests_and_cost_are_told_for_a_model_with_a_price(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    notes.execute(
        "insert into notes select i, repeat('word ', 1000) || i from generate_series(1, 30) i"
    )
    found = json.loads(worker("process", "--json", **with_openai).stdout)
    assert (found["requests"], found["cached"]) == (len(openai.requests), 0)
    assert found["cost"] == pytest.approx(found["tokens"] * 0.02 / 1e6)
    worker("requeue", "--all", "--yes")
    lines = worker("process", **with_openai).stdout.splitlines()
    assert lines[-3:] == ["Requests: 1", f"Tokens: {found['tokens']}", "Cost: $0.0008"]


def test_the_cost_is_not_known_where_the_provider_does_not_count(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    openai.faults.append(without_usage)
    assert worker("process", **with_openai).stdout.endswith("Requests: 1\nCost: not known\n")


def test_tokens_are_null_where_the_provider_does_not_count(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    openai.faults.append(without_usage)
    result = worker("process", "--json", **with_openai)
    found = json.loads(result.stdout)
    assert (found["tokens"], found["cost"]) == (None, None)
    assert statuses(notes) == {"completed": 3}


def test_the_summary_tells_what_became_of_each_job(db: Database, worker: Worker) -> None:
    db.execute("create table notes (id bigint primary key, body text, deleted_at timestamptz)")
    db.execute(
        "select watch_embeddings('notes', 'body', 'embedding', filter => 'deleted_at is null',"
        " dimensions => 256)"
    )
    fill(db, 5)
    worker("process")
    db.execute("update notes set deleted_at = now() where id = 1")
    db.execute("update notes set body = ' ' where id = 2")
    db.execute("update embedding_queue set status = 'pending' where record_id = '3'")
    db.execute("update notes set body = 'edited' where id = 4")
    result = worker("process")
    assert result.stdout.splitlines()[1:7] == [
        "Total records processed: 4",
        "Total errors: 0",
        "Success rate: 100.0%",
        "Unchanged: 1 (had the right vector already)",
        "Skipped: 1 (nothing to embed)",
        "Dropped: 1 (the record is gone)",
    ]
    without = rows(db, "select id from notes where embedding is null order by id")
    assert without == [(1,), (2,)]


def test_an_edit_during_the_call_is_told_and_embedded_in_the_same_run(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 2)

    def edited_meanwhile(due: Answer) -> Answer:
        notes.execute("update notes set body = 'edited meanwhile' where id = 1")
        return due

    openai.faults.append(edited_meanwhile)
    result = worker("process", **with_openai)
    assert "Total records processed: 2\n" in result.stdout
    assert "Stale: 1 (edited meanwhile, vector discarded)\n" in result.stdout
    assert result.returncode == 0
    assert statuses(notes) == {"completed": 2}
    assert vectors_are_right(notes)


# How much of it


def test_limit_ends_the_run_after_so_many_jobs(local_notes: Database, worker: Worker) -> None:
    fill(local_notes, 20)
    result = worker("process", "--limit", "7", "--batch-size", "5", "--json")
    assert json.loads(result.stdout)["processed"] == 7
    assert statuses(local_notes) == {"completed": 7, "pending": 13}
    assert worker("process", "--limit", "100").returncode == 0
    assert statuses(local_notes) == {"completed": 20}


@pytest.mark.parametrize(
    ("arguments", "done"),
    rest_in_full(
        [
            (["--table", "notes"], {("notes", "title_vector"), ("notes", "body_vector")}),
            (["--column", "body_vector"], {("notes", "body_vector"), ("app.notes", "body_vector")}),
            (["--table", "app.notes", "--column", "body_vector"], {("app.notes", "body_vector")}),
            (
                [],
                {("notes", "title_vector"), ("notes", "body_vector"), ("app.notes", "body_vector")},
            ),
        ]
    ),
)
def test_table_and_column_narrow_it_down(
    db: Database, worker: Worker, arguments: list[str], done: set[tuple[str, str]]
) -> None:
    db.execute("create schema app")
    db.execute("create table public.notes (id bigint primary key, title text, body text)")
    db.execute("create table app.notes (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('notes', 'title', 'title_vector', dimensions => 256),"
        " watch_embeddings('notes', 'body', 'body_vector', dimensions => 256),"
        " watch_embeddings('app.notes', 'body', 'body_vector', dimensions => 256)"
    )
    db.execute("insert into public.notes values (1, 'a title', 'a body')")
    db.execute("insert into app.notes values (1, 'another body')")
    assert worker("process", *arguments).returncode == 0
    completed = rows(
        db, "select table_name, embedding_column from embedding_queue where status = 'completed'"
    )
    assert set(completed) == done


# At what pace


def test_batch_size_and_delay_claim_ten_at_a_time_and_wait_after_each(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 25)
    result = worker("process", "--batch-size", "10", "--delay-ms", "200", **with_openai)
    assert result.returncode == 0
    assert [len(request.texts) for request in openai.requests] == [10, 10, 5]
    batches = groups(notes)
    assert [count for count, _, _ in batches] == [10, 10, 5]
    for (_, _, end), (_, begin, _) in pairwise(batches):
        assert begin - end >= 0.2


def test_the_pace_comes_from_the_environment_and_flags_win(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 25)
    with_openai |= {"EMBEDDING_BATCH_SIZE": "10", "EMBEDDING_DELAY_MS": "1"}
    worker("process", **with_openai)
    assert [len(request.texts) for request in openai.requests] == [10, 10, 5]
    worker("requeue", "--all", "--yes")
    worker("process", "--batch-size", "20", **with_openai)
    assert [len(request.texts) for request in openai.requests[3:]] == [20, 5]


def test_without_a_delay_batches_overlap(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 40)
    together = Barrier(4, timeout=30)

    def with_the_others(due: Answer) -> Answer:
        together.wait()
        return due

    openai.faults += [with_the_others] * 4
    result = worker("process", "--batch-size", "10", **with_openai)
    assert result.returncode == 0
    assert statuses(notes) == {"completed": 40}
    assert vectors_are_right(notes)


def test_by_default_a_batch_is_a_hundred(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 150)
    worker("process", **with_openai)
    assert sorted(len(request.texts) for request in openai.requests) == [50, 100]


# What it exits with


def test_failed_jobs_exit_with_1_and_a_hint(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 4)
    openai.reject = lambda text: text == "note number 3"
    result = worker("process", **with_openai)
    assert result.returncode == 1
    assert "Total records processed: 4\nTotal errors: 1\nSuccess rate: 75.0%\n" in result.stdout
    assert result.stderr == (
        "hint: `worker status` shows why; `worker requeue --failed` tries them again.\n"
    )
    assert statuses(notes) == {"completed": 3, "failed": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch-size", "0"],
        ["--batch-size", "many"],
        ["--delay-ms", "-1"],
        ["--limit", "0"],
        ["--unknown"],
        ["extra"],
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    result = run_worker("process", *arguments, cwd=tmp_path, environment={})
    assert result.returncode == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["process", "--batch-size", "99999999999"],
        ["backfill", "--batch", "99999999999"],
        ["search", "words", "--limit", "99999999999"],
    ],
)
def test_a_number_that_the_database_cannot_count_to_is_named(
    local_notes: Database, worker: Worker, arguments: list[str]
) -> None:
    result = worker(*arguments)
    assert result.returncode == 2
    assert "does not exist" not in result.stderr
    assert arguments[-2] in result.stderr


def test_a_missing_schema_exits_with_3(empty_database_url: str, tmp_path: Path) -> None:
    result = run_worker("process", cwd=tmp_path, environment={"DATABASE_URL": empty_database_url})
    cause, hint = refused(result, 3)
    assert cause == "the tables and functions of embedding-worker are missing from this database"
    assert "worker migrate" in hint
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("newer", "word", "cure"),
    [(-2, "older", "worker migrate"), (2, "newer", "Upgrade the worker")],
)
def test_a_schema_that_is_two_versions_apart_exits_with_3(
    db: Database, worker: Worker, newer: int, word: str, cure: str
) -> None:
    version = SCHEMA_VERSION + newer
    db.execute(
        "create or replace function public.embedding_schema_version() returns integer"
        f" language sql as 'select {version}'".encode()
    )
    cause, hint = refused(worker("process"), 3)
    assert cause == (
        f"the schema of this database ({version}) is {word} than this worker's ({SCHEMA_VERSION})"
        " by more than one version"
    )
    assert cure in hint


@pytest.mark.parametrize("newer", [-1, 1])
def test_a_schema_that_is_one_version_apart_will_do(
    notes: Database, worker: Worker, with_openai: dict[str, str], newer: int
) -> None:
    notes.execute(
        "create or replace function public.embedding_schema_version() returns integer"
        f" language sql as 'select {SCHEMA_VERSION + newer}'".encode()
    )
    fill(notes, 2)
    assert worker("process", **with_openai).returncode == 0
    assert statuses(notes) == {"completed": 2}


def test_a_provider_that_refuses_exits_with_4_and_hands_everything_back(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 4)
    openai.faults.extend([out_of_quota] * 2)
    result = worker("process", **with_openai)
    cause, hint = refused(result, 4)
    assert "answered 429: You exceeded your current quota" in cause
    assert "credit" in hint
    assert "Released: 4 (due again later)\n" in result.stdout
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_trouble_is_in_the_json_as_well(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 4)
    openai.faults.extend([out_of_quota] * 2)
    result = worker("process", "--json", **with_openai)
    cause, _ = refused(result, 4)
    found = json.loads(result.stdout)
    assert (found["error"], found["released"], found["processed"]) == (cause, 4, 0)


# Signals


def interrupted(process: Command, number: int = signal.SIGINT) -> None:
    """Send the signal, and wait until the process says that it has seen it."""
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline() == (
        "stopping: finishing requests in flight (interrupt again to exit at once)\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_under_way_end_and_takes_up_no_more(
    notes: Database, start: Start, with_openai: dict[str, str], held: Held, number: int
) -> None:
    fill(notes, 20)
    process = start("process", "--batch-size", "5", "--delay-ms", "1", **with_openai)
    assert held.arrived.wait(30)
    assert statuses(notes) == {"processing": 5, "pending": 15}
    interrupted(process, number)
    held.let_go.set()
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")
    assert "Total records processed: 5\n" in stdout
    assert statuses(notes) == {"completed": 5, "pending": 15}
    assert vectors_are_right(notes)


def test_a_signal_lets_all_overlapping_batches_end(
    notes: Database, start: Start, openai: OpenAIServer, with_openai: dict[str, str], held: Held
) -> None:
    openai.latency = 0.3
    fill(notes, 200)
    process = start("process", "--batch-size", "5", "--json", **with_openai)
    assert held.arrived.wait(30)
    interrupted(process)
    held.let_go.set()
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")
    done = json.loads(stdout)["completed"]
    assert 5 <= done < 200
    assert statuses(notes) == {"completed": done, "pending": 200 - done}
    assert vectors_are_right(notes)


def test_a_signal_during_an_outage_hands_everything_back(
    notes: Database, start: Start, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 5)
    asked = Held()
    asked.let_go.set()
    outage = rate_limited(**{"retry-after": "25"})
    openai.faults += [lambda due: outage(asked(due))] + [outage] * 10
    process = start("process", **with_openai)
    assert asked.arrived.wait(30)
    interrupted(process)
    stdout, stderr = process.communicate(timeout=15)
    assert (process.returncode, stderr) == (130, "")
    assert "Released: 5 (due again later)\n" in stdout
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_a_signal_between_two_batches_does_not_wait_for_the_delay(
    notes: Database, start: Start, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 10)
    asked = Held()
    asked.let_go.set()
    openai.faults.append(asked)
    process = start("process", "--batch-size", "5", "--delay-ms", "600000", **with_openai)
    assert asked.arrived.wait(30)
    interrupted(process)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert statuses(notes) == {"completed": 5, "pending": 5}


def test_a_second_signal_leaves_at_once(
    notes: Database, start: Start, with_openai: dict[str, str], held: Held
) -> None:
    fill(notes, 5)
    process = start("process", **with_openai)
    assert held.arrived.wait(30)
    interrupted(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert statuses(notes) == {"processing": 5}


def test_a_killed_worker_loses_nothing(
    notes: Database, start: Start, worker: Worker, with_openai: dict[str, str], held: Held
) -> None:
    fill(notes, 5)
    process = start("process", **with_openai)
    assert held.arrived.wait(30)
    process.kill()
    process.wait()
    assert statuses(notes) == {"processing": 5}
    # its last heartbeat may still be on its way
    sessions = (
        "select count(*) from pg_stat_activity where split_part(application_name, ':', 2) = %s"
    )
    eventually(lambda: value(notes, sessions, str(process.pid)) == 0, within=30)
    # as when EMBEDDING_LEASE_SECONDS have passed
    notes.execute("update embedding_queue set lease_expires_at = now()")
    assert worker("process", **with_openai).returncode == 0
    assert statuses(notes) == {"completed": 5}
    assert vectors_are_right(notes)


# Progress


def test_off_a_terminal_progress_is_plain_lines_on_stderr(
    local_notes: Database, database_url: str, tmp_path: Path
) -> None:
    fill(local_notes, 30)
    at_once = (
        "import worker.cli.render.progress as progress, worker.cli;"
        "progress.QUIET_FOR = 0.0; worker.cli.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", at_once, "process", "--batch-size", "10", "--json"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "DATABASE_URL": database_url,
            "EMBEDDING_PROGRESS_INTERVAL": "30",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = result.stderr.splitlines()
    told = [line.split(",")[0] for line in lines]
    assert told[-1] == "100%: 30 of 30"
    # Several batches that end together have one line.
    in_order = ["33%: 10 of 30", "66%: 20 of 30", "100%: 30 of 30"]
    assert told == [line for line in in_order if line in told]
    rest = r"%: \d+ of 30, \d+ rows/s, \d+ s elapsed, (unknown|\d+ s) remaining"
    assert all(re.search(rest + "$", line) for line in lines)
    assert json.loads(result.stdout)["completed"] == 30


def on_a_terminal(start: Start, **environment: str) -> tuple[str, str]:
    """What `worker process` writes to stdout, a pipe, and to stderr, a terminal."""
    controller, terminal = pty.openpty()
    process = start("process", stderr=terminal, TERM="xterm-256color", COLUMNS="120", **environment)
    os.close(terminal)
    written = b""
    while True:
        try:
            chunk = os.read(controller, 65_536)
        except OSError:  # how Linux reports that the other side is closed
            chunk = b""
        if not chunk:
            break
        written += chunk
    os.close(controller)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return stdout, written.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")


def test_on_a_terminal_a_bar_shows_percentage_and_rate(local_notes: Database, start: Start) -> None:
    fill(local_notes, 30)
    stdout, screen = on_a_terminal(start)
    assert COLOUR.search(screen)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    last = plain.split("\r")[-1 if plain.split("\r")[-1].strip() else -2]
    assert re.search(r"embedding █+ +100% 30/30 \d+ rows/s \d:\d\d:\d\d", last)
    assert stdout.startswith("=== PROCESSING SUMMARY ===\nTotal records processed: 30\n")
    assert "\x1b" not in stdout


def test_no_color_is_heeded(local_notes: Database, start: Start) -> None:
    fill(local_notes, 3)
    _, screen = on_a_terminal(start, NO_COLOR="1")
    assert "100%" in screen
    assert not COLOUR.search(screen)
