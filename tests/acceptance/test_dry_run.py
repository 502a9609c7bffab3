"""`--dry-run`: what it foretells, and that it asks no model and changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import pytest

from tests.acceptance.conftest import MODEL, fill, refused, statuses
from tests.conftest import REPOSITORY, Database, Worker, rest_in_full, rows, value
from tests.openai_server import OpenAIServer
from worker.operations.estimate import Forecast

HEADS = ["column", "model", "rows", "texts", "tokens", "requests", "cost", "time"]
NO_TIME = "hint: the time is not known before the first run with the model\n"

NO_KEY = f"OPENAI_API_KEY is not set, but EMBEDDING_MODEL is {MODEL}"

both_commands = pytest.mark.parametrize("command", ["process", "backfill"])


def forecasts(worker: Worker, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """What a dry run says as JSON."""
    result = worker(*arguments, "--dry-run", "--json", **environment)
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert isinstance(found, list)
    return found


def from_before(db: Database, count: int) -> None:
    """A watched table `notes` whose rows are not in the queue."""
    db.execute("create table notes (id bigint primary key, body text)")
    fill(db, count)
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 8)")


# What it says


def test_a_dry_run_prints_a_line_for_each_column_and_the_cost(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute(
        "insert into notes select i, repeat('word ', 1000) from generate_series(1, 250) as i"
    )
    result = worker("process", "--dry-run", **with_openai)
    heads, line, cost = result.stdout.splitlines()
    assert heads.split() == HEADS
    column, model, count, texts, tokens, requests, dollars, time = line.split()
    assert (column, model, count, texts, requests) == ("notes.embedding", MODEL, "250", "250", "3")
    assert int(tokens) == pytest.approx(250 * 1000, rel=0.3)
    assert dollars == f"${int(tokens) * 0.02 / 1e6:.4f}"
    assert cost == f"Cost: about {dollars}"
    assert (time, result.stderr, result.returncode) == ("-", NO_TIME, 0)


def test_a_text_in_chunks_is_estimated_by_its_chunks_with_their_context(
    db: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    db.execute("create table manuals (id bigint primary key, title text, body text)")
    db.execute(
        "select watch_embeddings('manuals', 'body', 'embedding', dimensions => 8, chunks => true,"
        " context => 'title', chunk_size => 200)"
    )
    db.execute(  # the second text is longer than what is read of it
        "insert into manuals select i, repeat('The long title. ', 20), string_agg(format("
        "'Paragraph %s of %s is here, and says a little about things.', j, i), e'\n\n')"
        " from generate_series(1, 2) i, generate_series(1, 40 * i * i * i) j group by i"
    )
    db.execute("insert into manuals values (3, 'A title without a text', ' ')")
    [found] = forecasts(worker, "process", **with_openai)
    done = json.loads(worker("process", "--json", **with_openai).stdout)
    assert found["rows"] == 3
    assert done["passages_embedded"] > 100
    assert found["texts"] == pytest.approx(done["passages_embedded"], rel=0.05)
    assert found["tokens"] == pytest.approx(done["tokens"], rel=0.1)
    assert found["requests"] == pytest.approx(done["requests"], abs=1)


def test_a_dry_run_of_several_columns_ends_with_a_line_for_all(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute("create table others (id bigint primary key, body text)")
    notes.execute(
        "select watch_embeddings('others', 'body', 'embedding', 'local:wordllama-256',"
        " dimensions => 256)"
    )
    notes.execute("insert into others select i, 'another' from generate_series(1, 12) as i")
    fill(notes, 150)
    lines = worker("process", "--dry-run", **with_openai).stdout.splitlines()
    cells = [line.split() for line in lines]
    assert [line[0] for line in cells[1:4]] == ["notes.embedding", "others.embedding", "(all)"]
    assert [line[2:4] for line in cells[1:3]] == [["150", "150"], ["12", "12"]]
    assert cells[3][1:3] == ["162", "162"]
    assert len({len(line) for line in lines[:4]}) == 1, "the columns are aligned to the right"
    assert [line[-2] for line in cells[1:4]] == ["<$0.0001", "$0", "<$0.0001"]
    assert lines[4] == "Cost: about <$0.0001"


@both_commands
def test_the_json_of_a_dry_run_has_the_documented_fields(
    notes: Database, worker: Worker, with_openai: dict[str, str], command: str
) -> None:
    fill(notes, 3)
    [found] = forecasts(worker, command, **with_openai)
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = text.split("### Before it costs anything")[1].split("\n## ")[0]
    names = [field.name for field in fields(Forecast)]
    assert list(found) == names == re.findall(r"^\| `(\w+)` \|", documented, re.M)


def test_what_a_dry_run_foretells_is_what_the_run_then_takes(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 150)
    notes.execute("update notes set body = ' ' where id <= 30")
    [forecast] = forecasts(worker, "process", **with_openai)
    assert (forecast["rows"], forecast["texts"]) == (150, 120)
    found = json.loads(worker("process", "--json", **with_openai).stdout)
    assert found["processed"] == forecast["rows"]
    assert found["completed"] == forecast["texts"]
    assert found["requests"] == forecast["requests"]
    assert found["tokens"] == pytest.approx(forecast["tokens"], rel=0.5)
    assert found["cost"] == pytest.approx(forecast["cost"], rel=0.5)


def test_what_a_backfill_foretells_is_what_it_then_enqueues(db: Database, worker: Worker) -> None:
    from_before(db, 25)
    [forecast] = forecasts(worker, "backfill")
    assert (forecast["rows"], forecast["texts"]) == (25, 25)
    assert [found["rows"] for found in forecasts(worker, "process")] == [0]
    enqueued = worker("backfill", "--json")
    assert json.loads(enqueued.stdout) == {"enqueued": 25}
    assert [found["rows"] for found in forecasts(worker, "backfill")] == [0]
    assert [found["rows"] for found in forecasts(worker, "process")] == [25]


@pytest.mark.parametrize(
    ("arguments", "count", "requests"),
    [
        (["--limit", "7"], 7, 1),
        (["--limit", "1000"], 250, 3),
        (["--batch-size", "20"], 250, 13),
        (["--batch-size", "20", "--limit", "50"], 50, 3),
    ],
)
def test_a_dry_run_heeds_the_limit_and_the_size_of_a_batch(
    notes: Database,
    worker: Worker,
    with_openai: dict[str, str],
    arguments: list[str],
    count: int,
    requests: int,
) -> None:
    fill(notes, 250)
    [found] = forecasts(worker, "process", *arguments, **with_openai)
    assert (found["rows"], found["texts"], found["requests"]) == (count, count, requests)


def test_the_time_is_known_by_the_allowed_rate_or_after_a_first_run(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 250)
    [found] = forecasts(worker, "process", **with_openai)
    assert found["seconds"] is None
    [found] = forecasts(worker, "process", **with_openai, EMBEDDING_RPM="2")
    assert found["seconds"] == 90
    [found] = forecasts(worker, "process", **with_openai, EMBEDDING_TPM=str(found["tokens"] // 2))
    assert found["seconds"] == pytest.approx(120, abs=1)
    result = worker("process", "--dry-run", **with_openai, EMBEDDING_RPM="2")
    assert "  90 s\n" in result.stdout
    assert NO_TIME not in result.stderr

    took = json.loads(worker("process", "--json", **with_openai).stdout)["elapsed_seconds"]
    worker("requeue", "--all", "--yes")
    [found] = forecasts(worker, "process", **with_openai)
    assert found["seconds"] == pytest.approx(took, rel=0.5)
    assert NO_TIME not in worker("process", "--dry-run", **with_openai).stderr


def test_a_model_without_a_known_price_has_no_cost(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    notes.execute("insert into notes values (1, 'x')")
    with_openai["EMBEDDING_MODEL"] = "openai:somebody/their-model"
    result = worker("process", "--dry-run", **with_openai)
    assert result.stdout.splitlines()[1].split()[-2:] == ["-", "-"]
    assert result.stdout.splitlines()[2] == "Cost: not known"
    [found] = forecasts(worker, "process", **with_openai)
    assert (found["cost"], found["tokens"]) == (None, 1)
    assert openai.requests == []


# What it leaves alone


@both_commands
def test_a_dry_run_asks_no_model_and_changes_nothing(
    db: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str], command: str
) -> None:
    from_before(db, 20)
    worker("backfill")
    db.execute("insert into notes select i, 'a late note' from generate_series(21, 40) as i")
    db.execute("delete from embedding_queue where record_id::int between 11 and 20")
    before = rows(db, "select * from embedding_queue order by id")
    for model in (MODEL, "openai:somebody/their-model"):
        [found] = forecasts(worker, command, **with_openai | {"EMBEDDING_MODEL": model})
        assert found["rows"] == (30 if command == "process" else 10)
    assert openai.requests == []
    assert rows(db, "select * from embedding_queue order by id") == before
    assert value(db, "select count(*) from embedding_usage") == 0


# Where there is nothing to foretell


def test_with_nothing_due_a_dry_run_says_where_there_may_be_something(
    db: Database, worker: Worker
) -> None:
    from_before(db, 5)
    result = worker("process", "--dry-run")
    assert result.stdout.splitlines()[1].split()[2:] == ["0", "0", "0", "0", "$0", "0", "s"]
    assert result.stdout.splitlines()[2] == "Cost: $0"
    assert result.stderr == (
        "hint: nothing is due; `worker backfill --dry-run` shows how many rows lack a vector\n"
    )
    worker("backfill")
    result = worker("backfill", "--dry-run")
    assert result.stderr == "hint: no row to enqueue: each has a vector or is in the queue\n"
    assert result.returncode == 0


@both_commands
def test_with_nothing_watched_a_dry_run_shows_the_way_to_watch(
    database_url: str, worker: Worker, command: str
) -> None:
    result = worker(command, "--dry-run")
    assert (result.stdout, result.returncode) == ("", 0)
    assert result.stderr.startswith("Nothing is watched yet. `worker watch TABLE ")
    assert forecasts(worker, command) == []


@both_commands
def test_a_dry_run_of_a_column_that_is_set_aside_says_so(
    notes: Database, worker: Worker, command: str
) -> None:
    notes.execute("update embedding_targets set problem = 'its table is gone'")
    result = worker(command, "--dry-run", "--json")
    cause, hint = refused(result, 1)
    assert cause == "column embedding of table notes is suspended: its table is gone"
    assert "worker watch" in hint
    assert json.loads(result.stdout) == []
    assert worker(command, "--dry-run").stdout == ""


@both_commands
def test_a_dry_run_of_columns_that_are_not_enabled_says_so(
    notes: Database, worker: Worker, command: str
) -> None:
    notes.execute("update embedding_targets set enabled = false")
    result = worker(command, "--dry-run")
    assert (result.stdout, result.returncode) == ("", 0)
    assert result.stderr.startswith("hint: these columns are disabled: `enabled` is false")
    assert forecasts(worker, command) == []


# What it refuses


@both_commands
@pytest.mark.parametrize(
    ("arguments", "environment", "cause"),
    rest_in_full(
        [
            (["--table", "nope"], {}, "there is no table nope"),
            (["--column", "nope"], {}, "column nope is not watched"),
            ([], {"EMBEDDING_MODEL": MODEL}, NO_KEY),
            ([], {"EMBEDDING_MODEL": "nobody:model"}, "there is no embedding model `nobody:model`"),
        ],
        first=3,
    ),
)
def test_a_dry_run_refuses_what_a_run_refuses(
    db: Database,
    worker: Worker,
    command: str,
    arguments: list[str],
    environment: dict[str, str],
    cause: str,
) -> None:
    from_before(db, 3)
    worker("backfill")
    db.execute("insert into notes values (4, 'one more')")
    db.execute("delete from embedding_queue where record_id = '1'")
    result = worker(command, "--dry-run", *arguments, **environment)
    assert refused(result, 2)[0] == cause
    assert result.stdout == ""


def test_only_a_column_with_something_to_embed_needs_the_key_of_its_model(
    notes: Database, worker: Worker
) -> None:
    notes.execute("select watch_embeddings('notes', 'body', 'embedding', %s)", [MODEL])
    [found] = forecasts(worker, "process")
    assert (found["rows"], found["cost"], found["seconds"]) == (0, 0, 0)
    fill(notes, 1)
    cause, hint = refused(worker("process", "--dry-run"), 2)
    assert cause == "OPENAI_API_KEY is not set"
    assert hint
    assert statuses(notes) == {"pending": 1}
