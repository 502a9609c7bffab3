"""What a person sees when EMBEDDING_MODEL is not the model of a column."""

from __future__ import annotations

import json
import signal
from functools import partial

from tests import conftest
from tests.acceptance.conftest import MODEL, Start, fill, refused, statuses
from tests.conftest import Database, Worker, rows, value
from tests.openai_server import OpenAIServer

TIMEOUT = 30.0  # seconds
eventually = partial(conftest.eventually, within=TIMEOUT)

OTHER = "openai:text-embedding-3-large"


def vectors(notes: Database) -> int:
    return int(value(notes, "select count(embedding) from notes"))


def test_a_changed_embedding_model_leaves_the_column_and_says_how_to_proceed(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    assert worker("process", **with_openai).returncode == 0
    notes.execute("insert into notes values (4, 'a new note')")
    changed = with_openai | {"EMBEDDING_MODEL": OTHER}
    cause, hint = refused(worker("process", **changed), 2)
    assert "column embedding of table notes" in cause
    assert MODEL in cause
    assert OTHER in cause
    assert f"worker watch … --model {MODEL}" in hint
    assert f"worker watch … --model {OTHER}" in hint
    assert statuses(notes) == {"completed": 3, "pending": 1}
    refused(worker("process", "--dry-run", "--json", **changed), 2)
    assert worker("process", **with_openai).returncode == 0
    assert rows(notes, "select distinct model from embedding_queue") == [(MODEL,)]


def test_other_columns_are_served_beside_one_of_another_model(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    worker("process", **with_openai)
    notes.execute("select watch_embeddings('notes', 'body', 'second', dimensions => 8)")
    notes.execute("insert into notes values (4, 'a new note')")
    result = worker("process", **(with_openai | {"EMBEDDING_MODEL": OTHER}))
    assert "Total records processed: 1\n" in result.stdout
    assert result.returncode == 2
    assert rows(
        notes, "select embedding_column, status from embedding_queue where record_id = '4'"
    ) == [("embedding", "pending"), ("second", "completed")]


def test_watching_with_either_model_settles_it(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 3)
    worker("process", **with_openai)
    watch = ["watch", "notes", "--source", "body", "--column", "embedding", "--model"]
    changed = with_openai | {"EMBEDDING_MODEL": OTHER}
    worker(*watch, MODEL, **changed)
    asked = len(openai.requests)
    assert worker("process", **changed).returncode == 0
    assert (vectors(notes), len(openai.requests)) == (3, asked)
    worker(*watch, OTHER, "--yes", **changed)
    assert vectors(notes) == 0
    assert worker("process", **changed).returncode == 0
    assert rows(notes, "select distinct model from embedding_queue") == [(OTHER,)]
    assert vectors(notes) == 3


def test_a_search_embeds_its_words_with_the_model_of_the_column(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 3)
    worker("process", **with_openai)
    found = worker(
        "search", "note number 2", "--json", **(with_openai | {"EMBEDDING_MODEL": OTHER})
    )
    assert json.loads(found.stdout)[0]["record_id"] == "2"
    assert openai.requests[-1].body["model"] == MODEL.partition(":")[2]


def test_targets_and_status_show_the_model_in_use(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 1)
    assert "(default)" in worker("targets").stdout
    worker("process", **with_openai)
    assert f"{MODEL} (default)" in worker("targets").stdout
    assert json.loads(worker("status", "--json").stdout)["columns"][0]["model"] == MODEL


def test_the_service_reports_the_column_once_and_serves_the_others(
    notes: Database, worker: Worker, start: Start, with_openai: dict[str, str]
) -> None:
    fill(notes, 1)
    worker("process", **with_openai)
    changed = with_openai | {"EMBEDDING_MODEL": OTHER, "WORKER_LOG_FORMAT": "json"}
    process = start("run", **changed)
    notes.execute("select watch_embeddings('notes', 'body', 'second', dimensions => 8)")
    notes.execute("update notes set body = 'edited'")
    eventually(lambda: statuses(notes) == {"pending": 1, "completed": 1})
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=TIMEOUT)
    told = [json.loads(line) for line in log.splitlines()]
    [report] = [event for event in told if event["event"] == "model_unusable"]
    assert (report["table"], report["column"]) == ("notes", "embedding")
    assert OTHER in report["cause"]
    assert MODEL in report["hint"]
    assert process.returncode == 0
