"""`worker backfill --batch-api` and `worker batches`, as people type them, and as docs/cli.md and
docs/providers.md show them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.acceptance.conftest import Start, fill, refused
from tests.batch_server import BatchServer, line_error
from tests.conftest import Database, Worker, eventually, rows, value
from tests.http_server import vector_for
from tests.reader import Reader, prepare
from tests.shell import Shell

LONG = 30.0  # seconds


@pytest.fixture
def provider() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@pytest.fixture
def environment(provider: BatchServer) -> dict[str, str]:
    return {
        "EMBEDDING_MODEL": "openai:text-embedding-3-small",
        "OPENAI_API_KEY": provider.api_key,
        "OPENAI_BASE_URL": provider.base_url,
        "EMBEDDING_BATCH_POLL": "0.1s",
    }


@pytest.fixture
def old_notes(notes: Database) -> Database:
    """Thirty notes from before their column was watched."""
    fill(notes, 30)
    notes.execute("delete from embedding_queue")
    return notes


def wrong(notes: Database) -> list[int]:
    """The notes whose vector is missing, or not that of their text."""
    return [
        key
        for key, body, vector in rows(notes, "select id, body, embedding::real[] from notes")
        if vector is None or not np.allclose(vector, vector_for(body, len(vector)), atol=1e-6)
    ]


def test_a_backfill_in_batches_ends_when_all_is_embedded(
    old_notes: Database, worker: Worker, provider: BatchServer, environment: dict[str, str]
) -> None:
    result = worker("backfill", "--batch-api", **environment)
    assert (result.returncode, result.stdout) == (0, "Enqueued: 30\nCompleted: 30\nFailed: 0\n")
    assert "batch 1 of notes.embedding is submitted, texts: 30" in result.stderr
    assert "batch 1 of notes.embedding is completed: 30 done, 0 failed" in result.stderr
    assert wrong(old_notes) == []
    assert provider.report()["paid_in_full"] == 0
    listed = worker("batches", "list", **environment)
    assert listed.stdout.splitlines()[1].split()[:5] == [
        "1",
        "notes.embedding",
        "completed",
        "30",
        "30",
    ]
    shown = json.loads(worker("batches", "show", "1", "--json", **environment).stdout)
    assert (shown["state"], shown["completed"], shown["error_message"]) == ("completed", 30, None)


def test_a_detached_backfill_is_collected_by_the_next_command(
    old_notes: Database, worker: Worker, provider: BatchServer, environment: dict[str, str]
) -> None:
    provider.is_holding = True
    begun = worker("backfill", "--batch-api", "--detach", "--json", **environment)
    assert json.loads(begun.stdout) == {
        "enqueued": 30,
        "completed": 0,
        "failed": 0,
        "stale": 0,
        "released": 0,
        "under_way": 1,
        "waiting": 0,
    }
    status = worker("status", **environment)
    assert "batches: 1 under way with 30 texts" in status.stdout
    document = json.loads(worker("status", "--json", **environment).stdout)
    assert [batch["texts"] for batch in document["batches"]] == [30]
    provider.is_holding = False
    assert worker("process", **environment).returncode == 0
    assert wrong(old_notes) == []
    assert provider.report()["left_over"] == []


def test_a_running_worker_serves_batches(
    old_notes: Database,
    start: Start,
    worker: Worker,
    provider: BatchServer,
    environment: dict[str, str],
) -> None:
    provider.is_holding = True
    assert worker("backfill", "--batch-api", "--detach", **environment).returncode == 0
    with start("run", WORKER_LOG_FORMAT="json", **environment) as process:
        old_notes.execute("insert into notes values (99, 'live')")
        eventually(
            lambda: value(old_notes, "select embedding is not null from notes where id = 99"), LONG
        )
        provider.is_holding = False
        eventually(lambda: wrong(old_notes) == [], LONG)
        eventually(lambda: provider.report()["left_over"] == [], LONG)
        process.terminate()
        process.wait()
    assert provider.report()["paid_in_full"] == 1


def test_an_interrupted_backfill_says_who_goes_on(
    old_notes: Database, start: Start, provider: BatchServer, environment: dict[str, str]
) -> None:
    provider.is_holding = True
    with start("backfill", "--batch-api", **environment) as process:
        eventually(lambda: len(provider.batches) == 1, LONG)
        process.terminate()
        _, said = process.communicate()
        assert process.returncode == 130
    assert "interrupted: running workers, `worker process` or the same command go on" in said


def test_cancelled_batches_are_embedded_the_ordinary_way(
    old_notes: Database, worker: Worker, provider: BatchServer, environment: dict[str, str]
) -> None:
    provider.is_holding = True
    assert worker("backfill", "--batch-api", "--detach", **environment).returncode == 0
    cause, _ = refused(worker("batches", "cancel", "1", **environment), 2)
    assert cause == "cancelled: nothing was changed"
    result = worker("batches", "cancel", "1", "--yes", **environment)
    assert (result.returncode, result.stdout) == (0, "Cancelled: 1 batch\n")
    eventually(
        lambda: worker("process", **environment).returncode == 0 and not wrong(old_notes), 60
    )
    assert provider.report()["paid_in_full"] == 30
    cause, _ = refused(worker("batches", "cancel", "1", "--yes", **environment), 2)
    assert cause == "batch 1 is not under way"


def test_a_limit_on_the_cost_says_how_to_go_on(
    old_notes: Database, worker: Worker, environment: dict[str, str]
) -> None:
    flags = ("backfill", "--batch-api", "--max-cost", "0.0000005")
    result = worker(*flags, **environment)
    assert result.returncode == 0
    assert "leaves no room for more" in result.stderr
    assert "`worker batches cancel --waiting`" in result.stderr
    result = worker("batches", "cancel", "--waiting", "--yes", **environment)
    assert result.stdout.startswith("No longer waiting: ")
    assert worker("process", **environment).returncode == 0
    assert wrong(old_notes) == []


def test_a_limit_on_the_cost_is_for_one_column(
    old_notes: Database, worker: Worker, environment: dict[str, str]
) -> None:
    old_notes.execute("create table others (id int primary key, body text, embedding vector(1536))")
    assert worker("watch", "others", "--source", "body", **environment).returncode == 0
    result = worker("backfill", "--batch-api", "--max-cost", "1", **environment)
    assert refused(result, 2) == (
        "--max-cost limits the cost of one column, and 2 are chosen",
        "Name one with --table and --column.",
    )
    assert value(old_notes, "select count(*) from embedding_queue") == 0


def test_a_dry_run_compares_both_ways(
    old_notes: Database, worker: Worker, provider: BatchServer, environment: dict[str, str]
) -> None:
    result = worker("backfill", "--batch-api", "--dry-run", **environment)
    assert (result.returncode, provider.requests) == (0, [])
    heads, ordinary, batches = result.stdout.splitlines()
    assert heads.split() == ["column", "way", "rows", "tokens", "requests", "cost", "time"]
    assert ordinary.split()[:3] == ["notes.embedding", "ordinary", "30"]
    assert "1 batch" in batches
    assert batches.endswith("up to 24 h")
    [found] = json.loads(
        worker("backfill", "--batch-api", "--dry-run", "--json", **environment).stdout
    )
    assert found["batch_cost"] == pytest.approx(found["cost"] / 2)
    assert found["batches"] == 1


@pytest.mark.parametrize(
    ("model", "arguments", "cause"),
    [
        ("local:wordllama-256", ["--batch-api"], "local: has no Batch API"),
        ("openai:text-embedding-3-small", ["--detach"], "--max-cost and --detach are those"),
        ("openai:nobody-knows", ["--batch-api", "--max-cost", "1"], "is not known"),
    ],
)
def test_what_cannot_be_embedded_in_batches_is_refused_before_anything_is_enqueued(
    old_notes: Database,
    worker: Worker,
    environment: dict[str, str],
    model: str,
    arguments: list[str],
    cause: str,
) -> None:
    result = worker("backfill", *arguments, **environment | {"EMBEDDING_MODEL": model})
    assert cause in refused(result, 2)[0]
    assert value(old_notes, "select count(*) from embedding_queue") == 0


TOO_LONG = "This model's maximum context length is 8192 tokens."
SUBMIT = "worker backfill --batch-api --detach"


@pytest.fixture
def shell(shell: Shell, environment: dict[str, str]) -> Shell:
    """Thirty texts take two batches here."""
    shell.environment |= environment | {"EMBEDDING_BATCH_TOKENS": "100"}
    return shell


def add_unseen(notes: Database, first: int, last: int) -> None:
    """Insert rows as a restore does: no trigger sees them."""
    notes.execute("set session_replication_role = replica")
    notes.execute(
        "insert into notes select id, 'note number ' || id"
        " from generate_series(%s::int, %s::int) id",
        [first, last],
    )
    notes.execute("reset session_replication_role")


def test_the_page_of_a_backfill_in_batches(
    old_notes: Database, shell: Shell, provider: BatchServer
) -> None:
    shell.environment["EMBEDDING_BATCH_TOKENS"] = "1000"
    page = Reader(shell, "docs/providers.md", "The Batch API")
    page.types("worker backfill --batch-api --dry-run")
    assert page.ends()


def test_the_page_of_batches(old_notes: Database, shell: Shell, provider: BatchServer) -> None:
    page = Reader(
        shell,
        "docs/cli.md",
        "By the Batch API",
        "worker batches list",
        "worker batches show",
        "worker batches cancel",
    )
    failing = {f"note number {key}": line_error(400, TOO_LONG) for key in (3, 4)}
    provider.line_answer = failing.get
    page.types("worker backfill --batch-api --table notes --max-cost 50", ends_with=1)
    add_unseen(old_notes, 31, 90)
    page.types("worker backfill --batch-api --dry-run")
    old_notes.execute("delete from embedding_batches")
    old_notes.execute("alter table embedding_batches alter id restart")
    prepare(shell, SUBMIT, SUBMIT)
    provider.is_holding = True
    while (
        value(old_notes, "select provider_state from embedding_batches where id = 2")
        != "in_progress"
    ):
        prepare(shell, SUBMIT)  # which may end before it is time to look at the batch
    page.types("worker batches list")
    page.types("worker batches show 2")
    page.types("worker batches cancel 2 --yes")
    assert page.ends()
