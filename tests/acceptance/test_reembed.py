"""`worker reembed`: the commands as a person types them, what they print, and how they end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import Held, Start, fill, refused, statuses
from tests.conftest import REPOSITORY, Database, Server, Worker, eventually, rows, value
from tests.openai_server import OpenAIServer, out_of_quota
from tests.pgbouncer import pgbouncer

NEW = "openai:text-embedding-3-large"
BEGIN = ["reembed", "start", "notes.embedding", "--model", NEW, "--dimensions", "12"]
OF_NOTES = "notes.embedding"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def embedded(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> Database:
    """Forty notes with vectors of the old model."""
    fill(notes, 40)
    assert worker("process", **with_openai).returncode == 0
    openai.requests.clear()
    return notes


@pytest.fixture
def run(worker: Worker, with_openai: dict[str, str]) -> Run:
    """Runs `worker reembed …` with the stand-in for the models."""

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return worker("reembed", command, *arguments, **with_openai)

    return run


def are_filled(db: Database) -> bool:
    return bool(value(db, "select bool_and(embedding_2 is not null) from notes"))


def asked(openai: OpenAIServer) -> Counter[str]:
    """How often the new model was asked for each note."""
    return Counter(
        text
        for request in openai.requests
        for text in request.texts
        if request.body["model"] in NEW and text.startswith("note number")
    )


@pytest.mark.only_in_full
def test_each_command_once(embedded: Database, run: Run) -> None:
    nothing = run("status")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no column was ever re-embedded" in nothing.stderr

    planned = run(*BEGIN[1:], "--dry-run")
    assert planned.returncode == 0
    assert re.search(
        r"^note: notes: it takes about .*^estimate: 40 texts, \d+ tokens, <\$0.0001, "
        rf"time not known .* \({NEW}\)$",
        planned.stdout,
        re.M | re.S,
    )
    assert "no column was ever re-embedded" in run("status").stderr

    started = run(*BEGIN[1:], "--yes")
    assert (started.returncode, started.stdout.splitlines()[-1]) == (0, f"{OF_NOTES}: ready")
    said = started.stderr.splitlines()
    for line in (
        f"begun: {OF_NOTES} gets vectors of {NEW}",
        f"embedding all texts with {NEW}",
        "verifying the new vectors",
        f"hint: `worker reembed swap {OF_NOTES}` lets the new vectors serve",
    ):
        assert line in said
    assert "passed: " in started.stdout

    for command, state in (("resume", "ready"), ("swap", "swapped"), ("rollback", "ready")):
        result = run(command, OF_NOTES)
        assert (result.returncode, result.stdout) == (0, f"{OF_NOTES}: {state}\n"), result.stderr
    assert run("verify").returncode == 0
    assert run("retry-failed").stdout == "Requeued: 0\n"
    assert run("swap").returncode == 0  # the only one that is open

    shown = run("status", "notes").stdout
    assert shown.startswith("=== RE-EMBEDDING STATUS ===\nColumn: notes.embedding\nFrom: openai:")
    for line in (
        "State: swapped",
        "Progress: 40 of 40 (100.0%)",
        "Since the swap, old: 0 texts, 0 tokens, $0 (openai:",
        f"Since the swap, new: 0 texts, 0 tokens, $0 ({NEW})",
        "Last step: swapped by",
    ):
        assert f"\n{line}" in shown
    [document] = json.loads(run("status", "--json").stdout)
    assert [used["model"] for used in document["since_swap"]] == [document["old_model"], NEW]
    assert (document["state"], document["progress"]["done"]) == ("swapped", 40)
    steps = ["started", "indexing", "verifying", "ready", "swapped", "rolled_back", "swapped"]
    assert [event["event"] for event in document["events"]] == steps

    assert refused(run("cleanup"), 2)[0] == "the old vectors would be dropped"
    cleaned = run("cleanup", "--rename", "--yes")
    assert (cleaned.returncode, cleaned.stdout) == (0, f"{OF_NOTES}: finished\n"), cleaned.stderr
    assert rows(embedded, "select distinct vector_dims(embedding) from notes") == [(12,)]


@pytest.mark.only_in_full
def test_a_partitioned_table_gets_its_new_vectors_in_a_side_table(
    db: Database, worker: Worker, run: Run, with_openai: dict[str, str]
) -> None:
    """It is chosen, said why, and everything goes on as with a column."""
    db.execute("create table parts (id bigint primary key, body text) partition by range (id)")
    db.execute("create table parts_low partition of parts for values from (0) to (20)")
    db.execute("create table parts_high partition of parts default")
    watched = ("watch", "parts", "--source", "body", "--create-column", "--dimensions", "8")
    assert worker(*watched, **with_openai).returncode == 0
    db.execute("insert into parts select i, 'note number ' || i from generate_series(1, 40) as i")
    assert worker("process", **with_openai).returncode == 0

    begin = ("parts", "--model", NEW, "--dimensions", "12", "--yes")
    into_a_column = run("start", *begin, "--store", "column")
    assert into_a_column.returncode == 2
    assert "error: parts: the table is partitioned, and its vector column" in into_a_column.stderr
    started = run("start", *begin)
    assert (started.returncode, started.stdout.splitlines()[-1]) == (0, "parts.embedding: ready")
    reason = "the new vectors go into a side table: the table is partitioned"
    assert reason in started.stderr.splitlines()
    assert "Store: side table (the table is partitioned)\n" in run("status").stdout
    [document] = json.loads(run("status", "--json").stdout)
    assert document["config"]["store"] == "table"
    assert document["events"][0]["figures"]["store_reason"] == "the table is partitioned"
    assert run("swap").returncode == 0
    cleaned = run("cleanup", "--rename", "--yes")
    assert (cleaned.returncode, cleaned.stdout) == (0, "parts.embedding: finished\n"), (
        cleaned.stderr
    )

    db.execute("update parts set id = 50, body = 'another note' where id = 1")
    assert worker("process", **with_openai).returncode == 0
    assert value(db, "select count(*) from parts_embedding") == 40
    found = worker("search", "another note", "--table", "parts", "--json", **with_openai)
    assert json.loads(found.stdout)[0]["record_id"] == "50"
    assert "public.parts_embedding" in worker("targets", **with_openai).stdout
    assert worker("index", "parts", **with_openai).returncode == 0
    assert worker("verify", "parts", **with_openai).returncode == 0
    assert refused(worker("unwatch", "parts", "--column", "embedding"), 2)[0] == (
        "the vectors of parts.embedding would be dropped, so nothing was changed"
    )
    assert worker("unwatch", "parts", "--column", "embedding", "--yes").returncode == 0
    beside = ("watch", "parts", "--source", "body", "--store", "table", "--dimensions", "8")
    assert refused(worker(*beside, "--create-column", **with_openai), 2)[0] == (
        "--create-column contradicts --store table"
    )
    assert worker(*beside, **with_openai).returncode == 0


def test_pause_detach_and_cancel(
    embedded: Database, run: Run, worker: Worker, with_openai: dict[str, str]
) -> None:
    detached = run(*BEGIN[1:], "--yes", "--detach")
    assert (detached.returncode, detached.stdout) == (0, f"{OF_NOTES}: filling\n")
    assert "enqueued: 40" in detached.stderr
    paused = run("pause")
    assert (paused.returncode, paused.stdout) == (0, f"{OF_NOTES}: paused\n")
    worker("process", **with_openai)
    assert statuses(embedded)["pending"] == 40
    assert run("resume", "--detach").stdout == f"{OF_NOTES}: filling\n"
    worker("process", **with_openai)
    assert are_filled(embedded)
    assert re.search(
        r"^Tokens: \d+ of about \d+\nCost: .* of about <\$0.0001$", run("status").stdout, re.M
    )
    assert run("resume").returncode == 0
    assert refused(run("cancel"), 2)[0] == "the new vectors would be dropped"
    assert run("cancel", "--yes").stdout == f"{OF_NOTES}: cancelled\n"
    assert "cancelled, not" in refused(run("swap", OF_NOTES), 2)[0]
    assert refused(run("swap"), 2)[0] == "no column is re-embedded"


def test_a_conversion_is_filled_by_its_command_only(
    embedded: Database, run: Run, worker: Worker, with_openai: dict[str, str]
) -> None:
    embedded.execute("select convert_embeddings('notes', 'embedding', 'halfvec')")
    assert run("pause").returncode == 0
    cause, hint = refused(run("resume", "--detach"), 2)
    assert cause == f"only this command fills the new vectors of {OF_NOTES}, by a cast"
    assert hint == "Leave out --detach."
    assert "goes on" in run("status").stdout
    assert "Remaining" not in run("status").stdout
    resumed = run("resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.endswith(f"{OF_NOTES}: ready\n")


def test_what_is_wrong_is_said_with_what_to_do(
    embedded: Database, run: Run, tmp_path: Path
) -> None:
    config = tmp_path / "reembed.json"
    model = ("--model", NEW)

    def with_config(**keys: object) -> subprocess.CompletedProcess[str]:
        config.write_text(json.dumps(keys))
        return run("start", OF_NOTES, "--config", str(config), "--yes")

    wanted = {"source_collection": OF_NOTES, "model": NEW}
    for result, cause in (
        (run("start", "notes.body", *model, "--yes"), "column notes.body is not watched"),
        (run("start", OF_NOTES, "--yes"), "the new model is not given"),
        (run("start", OF_NOTES, "--config", str(tmp_path), "--yes"), "cannot read"),
        (with_config(**wanted, dimension=3), 'there is no key "dimension": is `dimensions` meant?'),
        (with_config(**wanted | {"source_collection": "a.b"}), "the configuration is for a.b, not"),
        (with_config(**wanted, dimensions="12"), '`dimensions` cannot be "12"'),
        (run("status", "notes"), "column notes is not re-embedded"),
        (run("swap"), "no column is re-embedded"),
        (run("resume", OF_NOTES), f"column {OF_NOTES} is not re-embedded"),
    ):
        assert cause in refused(result, 2)[0]
    unknown = run("start", OF_NOTES, "--model", "openai:none", "--yes")
    assert "the model `none` does not exist" in refused(unknown, 4)[0].lower()
    unconfirmed = run(*BEGIN[1:])
    assert unconfirmed.returncode == 2
    assert "all texts would be embedded again, so nothing was begun" in unconfirmed.stderr
    assert rows(embedded, "select count(*) from embedding_reembeddings") == [(0,)]

    assert run(*BEGIN[1:], "--yes", "--detach").returncode == 0
    again = run(*BEGIN[1:], "--yes")
    assert again.returncode == 2
    assert f"is re-embedded already, with {NEW}: it is filling" in again.stderr
    assert "is filling, not" in refused(run("swap"), 2)[0]
    assert "is filling, not" in refused(run("rollback"), 2)[0]
    assert "is filling, not" in refused(run("cleanup", "--yes"), 2)[0]
    assert "are not filled and indexed: it is filling" in refused(run("verify"), 2)[0]


def test_a_configuration_is_followed_also_when_it_is_resumed(
    embedded: Database, run: Run, openai: OpenAIServer, tmp_path: Path
) -> None:
    example = json.loads(run("create-config").stdout)
    config = tmp_path / "reembed.json"
    wanted = {"source_collection": OF_NOTES, "dimensions": 12, "verification_enabled": False}
    config.write_text(json.dumps(example | wanted | {"batch_size": 4, "max_retries": 1}))
    openai.reject = lambda text: text == "note number 7"
    assert run("start", OF_NOTES, "--config", str(config), "--yes", "--detach").returncode == 0
    openai.requests.clear()
    filled = run("resume")
    assert (filled.returncode, filled.stdout) == (0, f"{OF_NOTES}: verifying\n"), filled.stderr
    assert "--no-verify` lets them serve unverified" in filled.stderr
    assert max(len(request.texts) for request in openai.requests) == 4
    assert "Failed: 1" in run("status").stdout
    assert "verifying, not ready" in refused(run("swap"), 2)[0]
    openai.reject = None
    assert run("retry-failed").stdout == "Requeued: 1\n"
    assert run("resume").returncode == 0
    assert run("swap", "--no-verify").stdout == f"{OF_NOTES}: swapped\n"
    assert are_filled(embedded)


def test_vectors_that_do_not_pass_are_reported_with_what_helps(
    embedded: Database, run: Run, worker: Worker, openai: OpenAIServer
) -> None:
    openai.reject = lambda text: text == "note number 7"
    stuck = run(*BEGIN[1:], "--yes")
    assert stuck.returncode == 1
    assert "not passed: 1 check of" in stuck.stdout
    assert stuck.stdout.splitlines()[-1] == f"{OF_NOTES}: verifying"
    assert "Problem: not passed" in run("status").stdout
    [advice] = re.findall(r"`worker (requeue .*?)`", stuck.stdout)
    openai.reject = None
    assert worker(*advice.split()).stdout == "Requeued: 1\n"
    assert run("resume").stdout.splitlines()[-1] == f"{OF_NOTES}: ready"
    assert are_filled(embedded)


def test_what_does_not_pass_later_is_not_swapped(
    embedded: Database, run: Run, tmp_path: Path
) -> None:
    assert run(*BEGIN[1:], "--yes").returncode == 0
    with embedded.transaction():  # nobody's trigger sees it
        embedded.execute("set local session_replication_role = replica")
        embedded.execute("create table kept as select id, embedding_2 as vector from notes")
        embedded.execute("update notes set embedding_2 = (select vector from kept where id = 5)")
    reports = [tmp_path / name for name in ("found.md", "found.html")]
    asked_for = [argument for path in reports for argument in ("--report", str(path))]
    found = run("verify", "--json", *asked_for)
    assert found.returncode == 1
    [result] = json.loads(found.stdout)
    assert (result["passed"], result["column"]) == (False, "notes.embedding_2")
    assert f"{OF_NOTES}: verifying\nhint: `worker reembed resume" in found.stderr
    assert all("overwritten" in path.read_text() for path in reports)
    assert "Problem: not passed" in run("status").stdout
    assert "is verifying, not ready" in refused(run("swap"), 2)[0]
    assert "neither HTML nor Markdown" in refused(run("verify", "--report", "a.txt"), 2)[0]

    with embedded.transaction():
        embedded.execute("set local session_replication_role = replica")
        embedded.execute("update notes set embedding_2 = vector from kept where kept.id = notes.id")
    again = run("verify")
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == f"{OF_NOTES}: ready"
    assert run("swap").returncode == 0


def test_what_a_swap_and_a_cleanup_would_hide_is_said(embedded: Database, run: Run) -> None:
    """Texts without their vector in what serves, and functions that may read the old vectors."""
    assert run(*BEGIN[1:], "--yes").returncode == 0
    embedded.execute(
        "create function nearest() returns bigint language plpgsql as"
        " $$ begin return (select min(id) from notes where embedding is not null); end $$"
    )
    embedded.execute("update notes set body = 'another note' where id = 7")
    for command in ("swap", "rollback", "swap"):
        assert "not all are those of the texts: 1 pending\n" in run(command).stderr
    assert "\nPending: 1\nPending, old: 1\n" in run("status").stdout
    [document] = json.loads(run("status", "--json").stdout)
    assert document["old"] == {"pending": 1, "processing": 0, "failed": 0}
    cleaned = run("cleanup", "--yes")
    assert cleaned.returncode == 0
    assert "warning: function public.nearest(): its text has the names" in cleaned.stderr
    [document] = json.loads(run("status", "--json").stdout)
    assert document["old"] is None


def test_through_a_pooler_in_transaction_mode_the_statements_are_printed(
    embedded: Database,
    worker: Worker,
    run: Run,
    with_openai: dict[str, str],
    server: Server,
    database: str,
) -> None:
    """Whoever runs them by hand can go on."""
    embedded.execute("create index on notes using hnsw (embedding vector_cosine_ops)")
    with pgbouncer(server.url) as url:
        pooled = with_openai | {"DATABASE_URL": Server(server.url, url).url_of(database)}
        begun = worker(*BEGIN, "--yes", **pooled)
        assert begun.returncode == 2
        assert "error: DATABASE_URL leads through a pooler in transaction mode" in begun.stderr
        settings, statement = begun.stdout.splitlines()[:-1], begun.stdout.splitlines()[-1]
        assert statement.startswith("create index concurrently on public.notes using hnsw")
        for line in (*settings, statement):
            embedded.execute(line)
        resumed = worker("reembed", "resume", **pooled)
    assert (resumed.returncode, resumed.stdout.splitlines()[-1]) == (0, f"{OF_NOTES}: ready")


def test_a_model_that_is_out_ends_it_with_the_reason_and_it_goes_on(
    embedded: Database, run: Run, openai: OpenAIServer
) -> None:
    assert run(*BEGIN[1:], "--yes", "--detach").returncode == 0
    openai.faults += [out_of_quota] * 20
    out = run("resume")
    assert out.returncode not in (0, 2, 130)
    assert "quota" in out.stderr
    assert "quota" in run("status").stdout
    openai.faults.clear()
    assert run("resume").returncode == 0
    assert "Problem" not in run("status").stdout
    assert are_filled(embedded)


def test_ctrl_c_ends_it_and_the_same_command_goes_on(
    embedded: Database,
    run: Run,
    start: Start,
    held: Held,
    with_openai: dict[str, str],
    openai: OpenAIServer,
) -> None:
    openai.faults.clear()
    assert run(*BEGIN[1:], "--yes", "--detach").returncode == 0
    openai.faults.append(held)
    limits = {"EMBEDDING_BATCH_SIZE": "5", "EMBEDDING_MAX_CONCURRENCY": "1"}
    with start("reembed", "resume", **limits, **with_openai) as command:
        assert held.arrived.wait(30)
        command.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in command.stderr.readline(), 30)
        held.let_go.set()
        stdout, stderr = command.communicate(30)
        assert (command.returncode, stdout) == (130, f"{OF_NOTES}: filling\n"), stderr
    assert "interrupted\n" in stderr
    assert 0 < len(asked(openai)) < 40
    assert run("resume").returncode == 0
    assert are_filled(embedded)


SCRIPT = """
import asyncio, json, sys
from worker import BatchReembeddingSystem, EmbeddingMigrationConfig

async def main() -> None:
    system = BatchReembeddingSystem(EmbeddingMigrationConfig.from_json("reembed.json"))
    if sys.argv[1] == "cancel":
        running = asyncio.create_task(system.run_reembedding_process())
        while not system.stop.is_set():
            await asyncio.sleep(0.01)
            try:
                if system.load_checkpoint()["progress"]["done"]:
                    running.cancel()
                    break
            except Exception:
                continue
        try:
            await running
        except asyncio.CancelledError:
            print("cancelled")
        return
    found = await system.run_reembedding_process()
    print(found.state, system.verify_migration().passed, system.retry_failed(),
          system.retry_failed_tools(), system.load_checkpoint()["state"])
    system.save_checkpoint()

asyncio.run(main())
"""


def test_a_script_elsewhere_is_cancelled_and_goes_on(
    embedded: Database,
    database_url: str,
    openai: OpenAIServer,
    with_openai: dict[str, str],
    tmp_path: Path,
) -> None:
    wanted = {"source_collection": OF_NOTES, "model": NEW, "dimensions": 12, "batch_size": 5}
    checkpoint = tmp_path / "state of it.json"
    config = tmp_path / "reembed.json"
    config.write_text(json.dumps({**wanted, "checkpoint_file": str(checkpoint)}))
    openai.latency = 0.2

    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(REPOSITORY), "DATABASE_URL": database_url, **with_openai}
            | {"EMBEDDING_MAX_CONCURRENCY": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    cancelled = script("cancel")
    assert (cancelled.stdout, cancelled.stderr) == ("cancelled\n", "")
    assert json.loads(checkpoint.read_text())["state"] == "filling"
    before = asked(openai)
    assert 0 < len(before) < 40
    openai.latency = 0
    openai.requests.clear()
    ended = script("go on")
    assert (ended.stdout, ended.stderr) == ("ready True 0 0 ready\n", "")
    document = json.loads(checkpoint.read_text())
    assert (document["state"], document["progress"]["done"]) == ("ready", 40)
    assert are_filled(embedded)
