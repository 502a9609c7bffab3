"""The commands that steer and show the queue, each as a process."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.conftest import MODEL, Ask, fill, refused, statuses
from tests.command_line import Command
from tests.conftest import REPOSITORY, Database, Worker, rest_in_full, rows, run_worker, value
from tests.integration.tables import embed_all
from tests.openai_server import OpenAIServer
from worker.cli.commands.search import print_found
from worker.database.migrations import migrations, seed
from worker.queue import Match
from worker.queue.postgres import PostgresQueue


def documented_fields(heading: str, after: str) -> list[str]:
    """The fields in the first table of docs/cli.md that follows these two texts."""
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    text = text.split(heading, 1)[1].split(after, 1)[1].split("| field |", 1)[1]
    return re.findall(r"^\| `(\w+)` \|", text.split("\n\n", 1)[0], re.M)


def one_document(output: str) -> Any:
    """The JSON that makes up the whole of stdout, on one line."""
    assert output.count("\n") == 1
    return json.loads(output)


@pytest.fixture
def mixed(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> Database:
    """Two watched tables, after a run: 6 notes of which 2 failed in two ways and 1 is empty."""
    notes.execute("create table others (id bigint primary key, body text)")
    notes.execute("select watch_embeddings('others', 'body', 'embedding', dimensions => 8)")
    notes.execute("insert into others values (1, 'another text'), (2, 'bad too')")
    fill(notes, 6)
    notes.execute("update notes set body = 'bad' where id = 2")
    notes.execute("update notes set body = repeat('long ', 8000) where id = 3")
    notes.execute("update notes set body = '' where id = 4")
    openai.reject = lambda text: text.startswith("bad")
    assert worker("process", **with_openai).returncode == 1
    openai.reject = None
    return notes


@pytest.fixture
def settled(notes: Database) -> Database:
    """The queue of `mixed`, without the vectors."""
    notes.execute("create table others (id bigint primary key, body text)")
    notes.execute("select watch_embeddings('others', 'body', 'embedding', dimensions => 8)")
    notes.execute("insert into others values (1, 'another text'), (2, 'bad too')")
    fill(notes, 6)
    notes.execute("update embedding_queue set status = 'completed', attempts = 1")
    notes.execute("update embedding_queue set status = 'skipped' where record_id = '4'")
    for table, record, error_class in (
        ("notes", "2", "rejected"),
        ("notes", "3", "too_long"),
        ("others", "2", "rejected"),
    ):
        notes.execute(
            "update embedding_queue set status = 'failed', error_class = %s, error_message = 'bad'"
            " where (table_name, record_id) = (%s, %s)",
            [error_class, table, record],
        )
    return notes


def pending(db: Database) -> list[tuple[str, str]]:
    found = rows(
        db,
        "select table_name, record_id from embedding_queue where status = 'pending'"
        " and attempts = 0 and error_message is null order by table_name, record_id",
    )
    return [(table, record) for table, record in found]


# worker requeue


@pytest.mark.parametrize(
    ("arguments", "requeued"),
    [
        (["--failed"], [("notes", "2"), ("notes", "3"), ("others", "2")]),
        (["--failed", "--table", "notes"], [("notes", "2"), ("notes", "3")]),
        (["--error-class", "rejected"], [("notes", "2"), ("others", "2")]),
        (["--error-class", "rejected", "--failed", "--table", "others"], [("others", "2")]),
        (["--id", "2"], [("notes", "2"), ("others", "2")]),
        (["--id", "1", "--table", "notes", "--column", "embedding"], [("notes", "1")]),
        (["--id", "4"], [("notes", "4")]),
        (["--all", "--yes", "--table", "others"], [("others", "1"), ("others", "2")]),
        (["--all", "--yes", "--table", "others", "--id", "1"], [("others", "1")]),
    ],
)
def test_requeue_makes_pending_what_is_asked_for_and_nothing_else(
    settled: Database, worker: Worker, arguments: list[str], requeued: list[tuple[str, str]]
) -> None:
    result = worker("requeue", *arguments)
    assert (result.stdout, result.stderr) == (f"Requeued: {len(requeued)}\n", "")
    assert result.returncode == 0
    assert pending(settled) == requeued


def test_what_was_requeued_is_embedded_anew_even_if_nothing_changed(
    mixed: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    assert worker("requeue", "--all", "--yes").stdout == "Requeued: 8\n"
    result = worker("process", "--json", **with_openai)
    found = json.loads(result.stdout)
    assert (found["completed"], found["unchanged"], found["skipped"]) == (6, 0, 1)
    assert statuses(mixed) == {"completed": 6, "skipped": 1, "failed": 1}


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "no jobs are selected"),
        (["--table", "notes"], "no jobs are selected"),
        (["--yes"], "no jobs are selected"),
        (["--all", "--failed", "--yes"], "--all contradicts --failed and --error-class"),
        (["--all", "--error-class", "x"], "--all contradicts --failed and --error-class"),
        (["--all"], "--all embeds every record again"),
    ],
)
def test_requeue_wants_to_be_told_clearly(tmp_path: Path, arguments: list[str], cause: str) -> None:
    # It does not even look for the database.
    environment = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}
    result = run_worker("requeue", *arguments, cwd=tmp_path, environment=environment)
    given, hint = refused(result, 2)
    assert given == cause
    assert hint


@pytest.mark.only_in_full
def test_on_a_terminal_requeue_of_all_asks(notes: Database, ask: Ask) -> None:
    fill(notes, 2)
    notes.execute("update embedding_queue set status = 'completed'")
    assert ask("n", "requeue", "--all").returncode == 2
    assert statuses(notes) == {"completed": 2}
    result = ask("y", "requeue", "--all")
    assert "Embed every selected record again?" in result.stderr
    assert (result.stdout, result.returncode) == ("Requeued: 2\n", 0)
    assert statuses(notes) == {"pending": 2}


# worker status


def test_status_shows_counts_coverage_and_failures(mixed: Database, worker: Worker) -> None:
    result = worker("status")
    assert (result.stderr, result.returncode) == ("", 0)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == [
        *["column", "pending", "active", "done", "failed", "skipped", "coverage", "due"],
    ]
    assert lines[1] == ["notes.embedding", "0", "0", "3", "2", "1", "███▌░░", "60.0%", "-"]
    assert lines[2] == ["others.embedding", "0", "0", "1", "1", "0", "███░░░", "50.0%", "-"]
    assert {"rows/s:", "elapsed:", "ETA:", "workers:"} < set(lines[4])
    assert [lines[3], *lines[5:7]] == [[], [], ["failed", "class", "column", "latest", "reason"]]
    failures = {(line[1], line[2]): line[0] for line in lines[7:]}
    assert failures == {
        ("rejected", "notes.embedding"): "1",
        ("too_long", "notes.embedding"): "1",
        ("rejected", "others.embedding"): "1",
    }
    assert max(map(len, result.stdout.splitlines())) <= 160


def test_status_shows_who_is_at_work(mixed: Database, worker: Worker) -> None:
    seen = "select embedding_worker_heartbeat(%s, 'here', 1, %s, cause => %s, rss_mb => 81.4)"
    mixed.execute(seen, ["here:1:a", "paused", "paused; run `worker resume`"])
    mixed.execute(seen, ["here:2:b", "working", None])
    mixed.execute(
        "update embedding_workers set seen_at = now() - interval '5 minutes' where worker ~ 'b'"
    )
    shown = worker("status").stdout
    assert re.search(r"\nhere:1:a +paused +81 MB +\d+s ago +paused; run `worker resume`\n", shown)
    assert re.search(r"\nhere:2:b +silent +81 MB +5m ago", shown)
    found = one_document(worker("status", "--json").stdout)["workers"]
    assert [known["worker"] for known in found] == ["here:1:a", "here:2:b"]
    assert list(found[0]) == documented_fields("## worker status", "In `workers`")


def test_what_comes_from_the_database_does_not_steer_the_terminal(
    mixed: Database, worker: Worker
) -> None:
    mixed.execute(
        "update embedding_queue set error_message = E'\\x1b[2Jgone' where status = 'failed'"
    )
    assert "\x1b" not in worker("status").stdout


@pytest.mark.parametrize(
    ("condition", "code"),
    rest_in_full(
        [
            ("failed > 0", 1),
            ("failed > 10", 0),
            ("oldest_due > 5m", 0),
            ("coverage < 70%", 1),
            ("workers < 1", 1),
            ("silent_workers > 0", 0),
            ("rows_per_second < 0.001", 0),
        ],
        first=2,
    ),
)
def test_status_fails_if_it_is_told_to(
    mixed: Database, worker: Worker, condition: str, code: int
) -> None:
    result = worker("status", "--fail-if", "pending > 1000", "--fail-if", condition)
    assert result.returncode == code, result.stderr
    assert result.stdout.startswith("column ")
    assert (condition in result.stderr) is (code == 1)


def test_status_as_json_has_the_documented_fields(mixed: Database, worker: Worker) -> None:
    mixed.execute("insert into notes values (7, 'new')")
    mixed.execute(
        "select embedding_provider_report('local', 'its files are missing', 'Fetch them.')"
    )
    mixed.execute("select control_embeddings('pause')")
    found = one_document(worker("status", "--json").stdout)
    assert list(found) == [
        *("columns", "failures", "providers", "commands", "progress", "workers", "backups"),
        *("checks", "batches", "batch_backfills"),
    ]
    for column in found["columns"]:
        assert list(column) == documented_fields("## worker status", "In `columns`")
    for failure in found["failures"]:
        assert list(failure) == documented_fields("## worker status", "In `failures`")
    [provider] = found["providers"]
    assert list(provider) == documented_fields("## worker status", "In `providers`")
    assert (provider["error"], provider["hint"]) == ("its files are missing", "Fetch them.")
    [order] = found["commands"]
    assert list(order) == documented_fields("## worker status", "In `commands`")
    assert (order["worker"], order["desired_state"]) == ("*", "pause")
    notes = found["columns"][0]
    since = datetime.fromisoformat(notes.pop("oldest_due"))
    assert since == value(mixed, "select available_at from embedding_queue where record_id = '7'")
    assert notes == {
        "table_name": "notes",
        "embedding_column": "embedding",
        "model": MODEL,
        "enabled": True,
        "problem": None,
        "rows": 7,
        "rows_exact": True,
        "pending": 1,
        "processing": 0,
        "completed": 3,
        "failed": 2,
        "skipped": 1,
        "coverage": 50.0,
        "coverage_goal": None,
        "passages": None,
        "chunks": None,
        "passages_exact": None,
        "due": 1,
        "due_exact": True,
    }
    classes = {(failure["table_name"], failure["error_class"]) for failure in found["failures"]}
    assert classes == {("notes", "rejected"), ("notes", "too_long"), ("others", "rejected")}


def test_status_documents_every_class_of_failure() -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (`.*?`) \|", text.split("| class | meaning |")[1], re.M)
    documented = set(re.findall(r"`(\w+)`", " ".join(first_cells)))
    sources = [
        *(REPOSITORY / "worker").rglob("*.py"),
        *(REPOSITORY / "supabase" / "migrations").glob("*.sql"),
    ]
    written = " ".join(path.read_text(encoding="utf-8") for path in sources)
    assignments = re.findall(r"error_class ?(?::?=|: str =) ?(?!=)(?:case .*? then )?(.*)", written)
    used = set(re.findall(r"['\"](\w+)['\"]", " ".join(assignments)))
    used |= set(re.findall(r'"(too_long|changed)"', written))
    assert used <= documented | {"locked", "not_enhanced"}  # of pending jobs
    assert {"unreadable", "no_answer", "rejected", "bad_vector"} <= used


def test_before_a_backfill_nothing_is_covered(db: Database, worker: Worker) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    fill(db, 4)
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")
    [column] = one_document(worker("status", "--json").stdout)["columns"]
    assert (column["rows"], column["coverage"], column["due"]) == (4, 0.0, 0)


@pytest.mark.parametrize("command", ["status", "targets"])
def test_with_nothing_watched_the_way_to_watch_is_shown(
    database_url: str, worker: Worker, command: str
) -> None:
    result = worker(command)
    assert (result.stdout, result.returncode) == ("", 0)
    assert result.stderr.startswith("Nothing is watched yet. `worker watch TABLE ")
    found = one_document(worker(command, "--json").stdout)
    if command == "targets":
        assert found == []
    else:
        lists = ("columns", "failures", "providers", "workers")
        assert [found[name] for name in lists] == [[], [], [], []]
        assert found["progress"]["pending"] == 0


# worker watch, unwatch, targets


@pytest.fixture
def posts(db: Database) -> Database:
    db.execute(
        "create table posts (id uuid primary key default gen_random_uuid(),"
        " title text, body text, deleted_at timestamptz)"
    )
    return db


def test_a_column_is_watched_backfilled_processed_searched_and_unwatched(
    posts: Database, worker: Worker
) -> None:
    posts.execute("insert into posts (title, body) values ('Parcels', 'stuck in the harbour')")
    watched = worker(
        *["watch", "posts", "--source", "title", "--source", "body", "--column", "vector"],
        *["--create-column", "--filter", "deleted_at is null"],
    )
    assert watched.stdout == "Watching: posts.vector <- concat_ws(E'\\n\\n', title, body)\n"
    assert watched.stderr.startswith("hint: to embed existing rows, run `worker backfill`")
    posts.execute("insert into posts (title, body) values ('Cooking', 'soup with beans')")
    assert worker("process").returncode == 0
    assert worker("backfill").stdout == "Enqueued: 1\n"
    assert worker("process").returncode == 0
    assert value(posts, "select count(vector) from posts") == 2
    found = worker("search", "shipments are delayed", "--table", "posts").stdout.splitlines()
    assert [re.sub(r"^[01]\.\d{4}  \S{36}  ", "", line) for line in found] == [
        "Parcels stuck in the harbour",
        "Cooking soup with beans",
    ]
    assert worker("unwatch", "posts", "--column", "vector").stdout == "Unwatched: posts.vector\n"
    assert value(posts, "select count(vector) from posts") == 2
    assert statuses(posts) == {}


def test_watch_again_changes_what_is_watched(posts: Database, worker: Worker) -> None:
    arguments = ["watch", "posts", "--source", "title", "--column", "vector"]
    assert worker(*arguments, "--create-column").returncode == 0
    assert worker(*arguments, "--create-column").returncode == 0
    assert worker(*arguments, "--model", "openai:text-embedding-3-small").returncode == 0
    found = rows(posts, "select source, model, dimensions from embedding_targets")
    assert found == [("title", "openai:text-embedding-3-small", 256)]


def test_create_column_makes_it_as_wide_as_the_model(posts: Database, worker: Worker) -> None:
    create = ["--source", "title", "--create-column", "--column"]
    worker("watch", "posts", *create, "small", "--model", "openai:text-embedding-3-small",
           OPENAI_API_KEY="sk-none")  # fmt: skip
    worker("watch", "posts", *create, "large", "--model", "openai:text-embedding-3-large",
           OPENAI_API_KEY="sk-none")  # fmt: skip
    found = rows(
        posts,
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'posts'::regclass and attname in ('small', 'large') order by 1",
    )
    assert found == [("large", "halfvec(3072)"), ("small", "vector(1536)")]


@pytest.mark.parametrize(
    ("model", "column_type"),
    [
        ("openai:text-embedding-3-large", "vector(512)"),
        ("openai:qwen3-embedding-8b", "vector(512)"),
        ("ollama:qwen3-embedding:8b", "vector(512)"),
    ],
)
def test_dimensions_ask_a_model_for_shorter_vectors(
    posts: Database, worker: Worker, model: str, column_type: str
) -> None:
    created = worker(
        *["watch", "posts", "--source", "title", "--create-column", "--column", "vector"],
        *["--model", model, "--dimensions", "512"],
        OPENAI_API_KEY="sk-none",
    )
    assert created.returncode == 0, created.stderr
    assert column_type == value(
        posts,
        "select format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'posts'::regclass and attname = 'vector'",
    )
    again = ["watch", "posts", "--column", "vector", "--create-column"]
    assert worker(*again, OPENAI_API_KEY="sk-none").returncode == 0
    assert rows(posts, "select model, dimensions from embedding_targets") == [(model, 512)]


def test_a_model_with_more_dimensions_than_an_index_takes_is_asked_for_fewer(
    posts: Database, worker: Worker
) -> None:
    create = ["watch", "posts", "--source", "title", "--create-column", "--column", "vector"]
    wide = [*create, "--model", "ollama:qwen3-embedding:8b"]
    cause, hint = refused(worker(*wide), 2)
    assert cause == "a vector column cannot have 4096 dimensions"
    assert "--dimensions" in hint
    assert worker(*wide, "--dimensions", "4000").returncode == 0
    assert (
        value(
            posts,
            "select format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = 'posts'::regclass and attname = 'vector'",
        )
        == "halfvec(4000)"
    )


def test_a_model_that_cannot_be_shortened_is_not_asked_to_be(
    posts: Database, worker: Worker
) -> None:
    create = ["watch", "posts", "--source", "title", "--create-column", "--column", "vector"]
    cause, hint = refused(worker(*create, "--dimensions", "100"), 2)
    assert cause == "local:wordllama-256 gives 256 dimensions and cannot be asked for 100"
    assert hint.startswith("Leave out --dimensions")
    assert value(posts, "select count(*) from embedding_targets") == 0


def test_dimensions_of_a_column_that_is_there_are_compared(notes: Database, worker: Worker) -> None:
    arguments = ["watch", "notes", "--column", "embedding", "--dimensions"]
    assert worker(*arguments, "8").returncode == 0
    cause, hint = refused(worker(*arguments, "16"), 2)
    assert cause == "column embedding holds 8 dimensions, not 16"
    assert "--create-column" in hint
    missing = ["watch", "notes", "--source", "body", "--column", "other", "--dimensions", "16"]
    assert "table notes has no column other" in refused(worker(*missing), 2)[0]
    assert "--create-column" in refused(worker(*missing, "--sql"), 2)[1]


# worker watch once more


@pytest.fixture
def watched_notes(local_notes: Database, queue: PostgresQueue) -> Database:
    """Three notes with vectors, of a column watched with all options."""
    local_notes.execute(
        "select watch_embeddings('notes', 'body', 'embedding', 'local:wordllama-256', 'id < 9',"
        " on_too_long => 'truncate', match_function => true)"
    )
    fill(local_notes, 3)
    assert len(embed_all(queue)) == 3
    return local_notes


def watched_as(db: Database) -> tuple[Any, ...]:
    [found] = rows(
        db,
        "select source, filter, model, on_too_long,"
        " (select count(*) from embedding.match_functions()) from embedding_targets",
    )
    return found


AS_IT_WAS = ("body", "id < 9", "local:wordllama-256", "truncate", 1)


def test_options_that_are_not_repeated_stay(watched_notes: Database, worker: Worker) -> None:
    result = worker("watch", "notes", "--column", "embedding")
    assert result.returncode == 0
    assert "change:" not in result.stderr
    assert watched_as(watched_notes) == AS_IT_WAS
    assert statuses(watched_notes) == {"completed": 3}


CHANGES = [
    (["--no-filter"], 1, None, "filter: id < 9 -> none"),
    (["--model", "default"], 2, "local:wordllama-256", "model_is_default: false -> true"),
    (["--no-truncate"], 3, "fail", "on_too_long: truncate -> fail"),
    (["--no-match-function"], 4, 0, "match_function: true -> false"),
]


def test_an_option_changes_alone_and_without_a_question_where_nothing_is_embedded_again(
    watched_notes: Database, queue: PostgresQueue, worker: Worker
) -> None:
    expected: list[object] = list(AS_IT_WAS)
    for arguments, place, becomes, told in CHANGES:
        result = worker("watch", "notes", "--column", "embedding", *arguments)
        assert result.returncode == 0, result.stderr
        changes = [line for line in result.stderr.splitlines() if line.startswith("change: ")]
        assert changes == [f"change: {told}"]
        expected[place] = becomes
        assert watched_as(watched_notes) == tuple(expected)
    watched_notes.execute("update embedding_targets set model_is_default = false")
    assert embed_all(queue) == []
    assert statuses(watched_notes) == {"completed": 3}


def test_what_embeds_rows_again_needs_a_yes(
    watched_notes: Database, queue: PostgresQueue, worker: Worker, ask: Ask
) -> None:
    change = ["watch", "notes", "--source", "upper(body)", "--column", "embedding"]
    told = "change: source: body -> upper(body)\n"
    result = worker(*change)
    assert (result.returncode, result.stderr) == (
        2,
        f"{told}error: 3 rows would be embedded again, so nothing was changed\n"
        "hint: Add --yes to agree.\n",
    )
    result = ask("n", *change)
    assert result.returncode == 2
    assert "3 rows will be embedded again. Continue? [y/N] " in result.stderr
    assert watched_as(watched_notes) == AS_IT_WAS
    assert statuses(watched_notes) == {"completed": 3}

    assert ask("y", *change).returncode == 0
    assert watched_as(watched_notes)[0] == "upper(body)"
    assert statuses(watched_notes) == {"pending": 3}
    assert len(embed_all(queue)) == 3
    result = worker("watch", "notes", "--source", "body", "--column", "embedding", "--yes")
    assert result.returncode == 0
    assert "3 rows will be embedded again\n" in result.stderr
    assert statuses(watched_notes) == {"pending": 3}


def test_options_that_contradict_each_other_are_refused(notes: Database, worker: Worker) -> None:
    arguments = ["--column", "embedding", "--filter", "id = 1", "--no-filter"]
    cause, hint = refused(worker("watch", "notes", *arguments), 2)
    assert (cause, hint) == ("--filter contradicts --no-filter", "Use only one of them.")
    cause, hint = refused(worker("watch", "docs", "--chunks", "--create-column"), 2)
    assert cause == "--create-column contradicts --chunks"
    assert "table of their own" in hint


def test_the_sql_of_watch_gives_what_is_not_mentioned_as_null(
    notes: Database, worker: Worker
) -> None:
    def given(*arguments: str) -> dict[str, str]:
        printed = worker("watch", "notes", "--column", "embedding", "--sql", *arguments).stdout
        call = printed[printed.index("select public.watch_emb") :]
        return {
            name: value
            for name, value in re.findall(r"(\w+) => (.*?)::", call)
            if value != "null" and name not in ("relation", "embedding_column", "audit_source")
        }

    assert given() == {}
    assert given("--no-filter", "--no-truncate", "--model", "default", "--no-match-function") == {
        "model": "''",
        "filter": "''",
        "on_too_long": "'fail'",
        "match_function": "'False'",
    }
    assert given("--truncate", "--filter", "x", "--model", "ollama:a", "--match-function") == {
        "model": "'ollama:a'",
        "filter": "'x'",
        "on_too_long": "'truncate'",
        "match_function": "'True'",
    }


# worker watch as a migration, and its end

WATCHES = [
    ["posts", "--source", "title", "--column", "vector", "--create-column"],
    ["posts", "--source", "title", "--source", "body", "--column", "it's", "--create-column"],
    [
        *["posts", "--source", "coalesce(title, 'it''s untitled')", "--column", "vector"],
        *["--filter", "deleted_at is null and title <> 'x'"],
        *["--model", "local:wordllama-256", "--create-column"],
    ],
    [
        *['"My-Schema"."Weird Table"', "--source", "My Text", "--column", "My Vector"],
        "--create-column",
    ],
    ["app.docs", "--source", "body", "--column", "vector", "--create-column"],
    ["UPPER", "--source", "body", "--column", "vector", "--create-column", "--match-function"],
    [
        *["posts", "--source", "title", "--source", "body", "--column", "it's"],
        *["--create-column", "--hybrid"],
    ],
    [
        *['"My-Schema"."Weird Table"', "--source", "My Text", "--column", "My Vector"],
        *["--create-column", "--language", "german"],
    ],
]


@pytest.mark.parametrize("arguments", rest_in_full(WATCHES), ids=lambda arguments: arguments[0])
def test_the_sql_of_watch_runs_as_a_migration_and_equals_running_watch(
    posts: Database,
    queue: PostgresQueue,
    worker: Worker,
    connect: Callable[[], Database],
    arguments: list[str],
) -> None:
    posts.execute('create schema "My-Schema"')
    posts.execute('create table "My-Schema"."Weird Table" ("Key" int primary key, "My Text" text)')
    posts.execute("create schema app")
    posts.execute("create table app.docs (id bigint primary key, body text)")
    posts.execute('create table "UPPER" (id bigint primary key, body text)')

    def watched() -> list[Any]:
        return rows(
            posts,
            "select to_jsonb(target) - 'id' - 'created_at' - 'updated_at',"
            " (select count(*) from pg_trigger where tgrelid = target.relation::regclass),"
            " (select count(*) from embedding.match_functions()),"
            " array(select pg_get_indexdef(indexrelid) from pg_index"
            "        where indrelid = target.relation::regclass and indexprs is not null)"
            " from embedding_targets as target",
        )

    printed = worker("watch", *arguments, "--sql")
    assert (printed.returncode, printed.stderr) == (0, "")
    for heading in ("-- Why: ", "-- Locks: ", "-- Undo: "):
        assert heading in printed.stdout
    assert watched() == []
    # As `supabase db push` runs it: with an empty search path, in a transaction.
    migration = connect()
    migration.execute("set search_path = ''")
    with migration.transaction():
        migration.execute(printed.stdout.encode())
    by_migration = watched()
    assert len(by_migration) == 1
    assert len(by_migration[0][3]) == ("--hybrid" in arguments or "--language" in arguments)
    undo = printed.stdout.split("-- Undo: ")[1].split("select public.watch_embeddings")[0]
    migration.execute(undo.replace("--", "").encode())
    assert watched() == []
    assert worker("watch", *arguments).returncode == 0
    assert watched() == by_migration


def test_targets_lists_what_is_watched(posts: Database, worker: Worker) -> None:
    posts.execute(
        "select watch_embeddings('posts', 'title', 'vector', model => 'openai:m',"
        " filter => 'deleted_at is null', dimensions => 8),"
        " watch_embeddings('posts', 'title, body', 'both', dimensions => 8),"
        " watch_embeddings('posts', 'body', 'parts', dimensions => 8, chunks => true,"
        " context => 'title', format => 'html', chunk_size => 200, chunk_unit => 'tokens')"
    )
    result = worker("targets")
    assert (result.stderr, result.returncode) == ("", 0)
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert lines == [
        ["table", "column", "source", "filter", "model", "width", "chunks"],
        ["posts", "both", "concat_ws(E'\\n\\n', title, body)", "-", "(default)", "8", "-"],
        ["posts", "parts", "body", "-", "(default)", "8", "html 200 tokens"],
        ["posts", "vector", "title", "deleted_at is null", "openai:m", "8", "-"],
    ]
    found = one_document(worker("targets", "--json").stdout)
    for target in found:
        assert list(target) == documented_fields("## worker targets", "With `--json`")
    chunks = {name: setting for name, setting in found[1].items() if "chunk" in name}
    assert chunks == {
        "chunk_format": "html",
        "chunk_size": 200,
        "chunk_unit": "tokens",
        "max_chunks": 20000,
    }
    assert found[1]["context"] == "title"
    assert found[2] == {
        "table_name": "posts",
        "embedding_column": "vector",
        "kind": "embed",
        "serves": None,
        "role": "serving",
        "source": "title",
        "filter": "deleted_at is null",
        "model": "openai:m",
        "document_prompt": None,
        "query_prompt": None,
        "model_is_default": False,
        "dimensions": 8,
        "language": None,
        "context": None,
        **dict.fromkeys(chunks),
        "enhance_model": None,
        "enhance_prompt": None,
        "enhance_on_failure": None,
        "store_relation": None,
        "enabled": True,
        "problem": None,
    }


# worker backfill


def test_backfill_enqueues_what_lacks_a_vector_once(db: Database, worker: Worker) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    fill(db, 25)
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")
    result = worker("backfill", "--batch", "10")
    assert (result.stdout, result.returncode) == ("Enqueued: 25\n", 0)
    assert result.stderr == "notes.embedding: 25 rows enqueued\n"
    assert statuses(db) == {"pending": 25}
    assert worker("backfill").stdout == "Enqueued: 0\n"
    worker("process")
    assert worker("backfill").stdout == "Enqueued: 0\n"


def test_backfill_keeps_to_the_table_and_column_it_is_given(db: Database, worker: Worker) -> None:
    for table in ("notes", "others"):
        db.execute(f"create table {table} (id bigint primary key, body text)".encode())
        db.execute(f"insert into {table} values (1, 'a text')".encode())
        db.execute(
            f"select watch_embeddings('{table}', 'body', 'embedding', dimensions => 8)".encode()
        )
    assert worker("backfill", "--table", "others").stdout == "Enqueued: 1\n"
    assert rows(db, "select table_name from embedding_queue") == [("others",)]
    assert worker("backfill", "--column", "embedding").stdout == "Enqueued: 1\n"


# worker search


@pytest.fixture
def sample(queue: PostgresQueue, worker: Worker) -> PostgresQueue:
    """The sample tables, embedded."""
    queue.run_script(seed())
    assert worker("process").returncode == 0
    return queue


def test_search_finds_passages_and_prints_their_place(
    sample: PostgresQueue, worker: Worker
) -> None:
    command = ("search", "how do I get my money back", "--table", "handbook")
    first, *others = worker(*command).stdout.splitlines()
    assert re.match(r"0\.\d{4}  1  \[Refunds\] The money goes back the way it came\.", first)
    assert len(others) == 4, "one of each text"
    several = [
        line.split()[1]
        for line in worker(*command, "--per-document", "3", "--limit", "8").stdout.splitlines()
    ]
    assert max(several.count(key) for key in several) == 3
    best = one_document(worker(*command, "--limit", "1", "--json").stdout)[0]
    assert best["content"].startswith("## Refunds\n\nThe money goes back")
    assert best["last_char"] - best["first_char"] == len(best["content"])
    assert (best["heading_path"], best["page"]) == ("Refunds", None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# One\n\n## Two\n\ntext", "## Two text"),
        ("# One\n", "# One"),
        ("text\n\n# One\n\nmore", "text # One more"),
        ("#!shebang\ntext", "#!shebang text"),
        ("# " * 100_000, "# # #"),  # in no time
    ],
)
def test_search_shows_a_passage_without_the_heading_at_its_beginning(
    content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_found([Match("1", content, 0.5, heading_path="One")])
    assert capsys.readouterr().out.removeprefix("0.5000  1  [One] ").startswith(said)


def test_search_finds_by_meaning_and_prints_a_line_a_row(
    sample: PostgresQueue, worker: Worker
) -> None:
    result = worker("search", "shipments are delayed", "--table", "summaries", "--limit", "3")
    assert (result.stderr, result.returncode) == ("", 0)
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"[01]\.\d{4}  [0-9a-f-]{36}  \S.*", line) for line in lines)
    assert [line[:6] for line in lines] == sorted(line[:6] for line in lines)
    assert "1,900 parcels" in lines[0]

    found = one_document(
        worker("search", "shipments are delayed", "--table", "summaries", "--json").stdout
    )
    assert len(found) == 5
    for match in found:
        assert list(match) == documented_fields("## worker search", "With `--json`")
    assert [match["record_id"] for match in found[:3]] == [line.split()[1] for line in lines]
    assert found[0]["content"].startswith("Some 1,900 parcels")
    assert 0 < found[0]["distance"] < found[-1]["distance"] < 2


def test_a_column_is_searched_by_words_once_it_is_watched_so(
    sample: PostgresQueue, worker: Worker
) -> None:
    def searched(*arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = one_document(
            worker("search", "gdansk", "--table", "summaries", "--json", *arguments).stdout
        )
        return found

    cause, hint = refused(worker("search", "gdansk", "--table", "summaries", "--text"), 2)
    assert cause == "column content_embedding of table summaries has no language"
    assert hint == "Run `worker watch summaries --column content_embedding --hybrid`."
    assert searched("--vector")[0]["score"] is None

    watch = ["watch", "summaries", "--column", "content_embedding"]
    result = worker(*watch, "--hybrid")
    assert result.returncode == 0
    assert "change: language: none -> english" in result.stderr
    assert "building the index over the words" in result.stderr
    assert "full_text_index_missing" not in worker("doctor", "--json").stdout
    assert "building" not in worker(*watch, "--hybrid").stderr

    by_both, by_words = searched(), searched("--text")
    assert "Gdansk" in by_both[0]["content"]
    assert (by_both[0]["text_rank"], len(by_both)) == (1, 5)
    assert by_both == searched("--hybrid")
    assert [(match["distance"], match["text_rank"]) for match in by_words] == [(None, 1)]
    assert all(match["score"] is None for match in searched("--vector"))
    assert (
        refused(worker("search", "gdansk", "--hybrid", "--text"), 2)[1] == "Use only one of them."
    )

    worker(*watch, "--language", "simple")
    assert worker(*watch, "--hybrid").stderr.startswith("hint")  # keeps its language
    assert "change: language: simple -> none" in worker(*watch, "--no-hybrid").stderr
    assert searched()[0]["score"] is None
    assert refused(worker(*watch, "--no-hybrid", "--language", "simple"), 2)[1] == (
        "Use only one of them."
    )


def test_a_search_shows_what_its_order_is_made_of(sample: PostgresQueue, worker: Worker) -> None:
    assert worker("watch", "summaries", "--column", "content_embedding", "--hybrid").returncode == 0
    search = ["search", "gdansk", "--table", "summaries", "--explain"]
    heading, *lines = worker(*search, "--limit", "30").stdout.splitlines()
    assert heading == "score   vector  words  distance"
    form = r"(0\.\d{4})  +(\d+|-)  +(\d+|-)  ([01]\.\d{4})  [0-9a-f-]{36}  \S.*"
    found = [match for line in lines if (match := re.fullmatch(form, line))]
    assert len(found) == len(lines) == 22
    assert (found[0][3], {match[3] for match in found[1:]}) == ("1", {"-"})
    [_, line] = worker(*search, "--text").stdout.splitlines()
    assert re.match(r"0\.0196       -      1  -       [0-9a-f-]{36}  ", line)
    result = worker("search", "xylophone", "--table", "summaries", "--text")
    assert (result.stdout, result.stderr) == (
        "",
        "Nothing found: no text has one of these words.\n",
    )


def test_search_wants_to_know_where(sample: PostgresQueue, worker: Worker) -> None:
    cause, hint = refused(worker("search", "words"), 2)
    assert cause == (
        "several columns are watched: handbook.embedding, sessions.title_embedding,"
        " summaries.content_embedding"
    )
    assert hint == "Give --table and --column."
    assert worker("search", "words", "--column", "title_embedding").returncode == 0


def test_search_without_words_or_vectors_says_so(local_notes: Database, worker: Worker) -> None:
    cause, _ = refused(worker("search", "  "), 2)
    assert cause == "the search text is empty"
    result = worker("search", "words")
    assert (result.stdout, result.returncode) == ("", 0)
    assert result.stderr.startswith("Nothing found: no row has a vector yet.")
    assert one_document(worker("search", "words", "--json").stdout) == []


def test_search_with_nothing_watched_says_so(database_url: str, worker: Worker) -> None:
    cause, hint = refused(worker("search", "words"), 2)
    assert cause == "nothing is watched yet"
    assert "`worker watch`" in hint


# worker migrate


def test_migrate_applies_all_and_a_second_time_nothing(
    empty_database_url: str, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": empty_database_url}
    names = [f"{migration.version}_{migration.name}" for migration in migrations()]

    def migrate(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = run_worker("migrate", *arguments, cwd=tmp_path, environment=environment)
        assert result.returncode == 0
        return result

    def applied() -> list[str]:
        lines = [line.split() for line in migrate("--status").stdout.splitlines()]
        assert lines[0] == ["version", "name", "applied"]
        assert [f"{version}_{name}" for version, name, _ in lines[1:]] == names
        return [state for _, _, state in lines[1:]]

    assert set(applied()) == {"no"}
    first = migrate()
    assert first.stdout.splitlines() == names
    assert first.stderr == f"{len(names)} migrations applied\n"
    assert set(applied()) == {"yes"}
    second = migrate()
    assert second.stdout == ""
    assert second.stderr == "nothing to apply: the schema is up to date\n"
    with psycopg.connect(empty_database_url) as connection:
        history = rows(
            connection,
            "select version, name, cardinality(statements) > 0"
            " from supabase_migrations.schema_migrations order by version",
        )
    assert history == [(found.version, found.name, True) for found in migrations()]


def test_migrations_that_run_at_once_wait_for_each_other(
    empty_database_url: str, tmp_path: Path
) -> None:
    """As of several pods that start together."""
    environment = {"DATABASE_URL": empty_database_url}
    with ExitStack() as started:
        commands = [
            started.enter_context(Command(["migrate"], tmp_path, environment)) for _ in range(2)
        ]
        said = [command.read(60) for command in commands]
        assert [command.wait() for command in commands] == [0, 0], said
    applied = [line for stdout, _ in said for line in stdout.decode().splitlines()]
    assert sorted(applied) == [f"{each.version}_{each.name}" for each in migrations()]


def test_a_migration_that_fails_leaves_nothing_half_done(
    empty_database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("create table embedding_queue (id integer)")
        environment = {"DATABASE_URL": empty_database_url}
        result = run_worker("migrate", cwd=tmp_path, environment=environment)
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        assert "the migration history does not list 20261121000006_embedding_queue" in result.stderr
        assert 'relation "embedding_queue" already exists\nhint: ' in result.stderr
        history = rows(connection, "select name from supabase_migrations.schema_migrations")
        names = [found.name for found in migrations()]
        assert [name for (name,) in history] == names[: names.index("embedding_queue")]
        connection.execute("drop table embedding_queue")
    assert run_worker("migrate", cwd=tmp_path, environment=environment).returncode == 0


def test_a_schema_called_embedding_that_belongs_to_somebody_else_is_left_alone(
    empty_database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("create schema embedding")
    environment = {"DATABASE_URL": empty_database_url}
    result = run_worker("migrate", cwd=tmp_path, environment=environment)
    assert result.returncode != 0
    assert 'there is a schema "embedding" already\nhint: ' in result.stderr


# all of them


def test_help_lists_the_commands_and_the_exit_codes(tmp_path: Path) -> None:
    result = run_worker("--help", cwd=tmp_path, environment={})
    assert result.returncode == 0
    for name in ("process", "requeue", "status", "watch", "unwatch", "targets", "backfill"):
        assert f"  {name} " in result.stdout
    assert "Exit codes: 0 all done" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["process", "--nowhere"], ["watch"]])
def test_wrong_usage_is_told_on_stderr(tmp_path: Path, arguments: list[str]) -> None:
    result = run_worker(*arguments, cwd=tmp_path, environment={})
    assert result.returncode == 2
    assert "Usage: " in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
