"""A reranker puts the rows of a search in order: on the command line and from Python."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import worker as api
from tests.acceptance.conftest import refused
from tests.conftest import Database, Worker
from tests.vendor_server import RERANKERS, VendorServer
from worker.queue import Match
from worker.settings import Settings

NOTES = 60


def environment(server: VendorServer) -> dict[str, str]:
    name = server.name.upper()
    return {f"{name}_API_KEY": server.key, f"{name}_BASE_URL": server.base_url}


@pytest.fixture
def texts(local_notes: Database, worker: Worker) -> Database:
    """Rows whose words the stand-in counts, with vectors of the local model."""
    local_notes.execute(
        "insert into notes select id, 'a note about bread ' || id"
        " from generate_series(1, %s) as id",
        [NOTES],
    )
    local_notes.execute("update notes set body = 'how to bake bread at home' where id = 42")
    assert worker("process").returncode == 0
    return local_notes


@pytest.mark.parametrize("name", RERANKERS)
def test_the_best_rows_are_put_in_the_order_of_the_reranker(
    texts: Database, worker: Worker, name: str
) -> None:
    with VendorServer(name) as server:
        options = ["--rerank", f"{name}:{RERANKERS[name][0]}", "--limit", "3", "--json"]
        result = worker("search", "how to bake bread", *options, **environment(server))
        [request] = server.requests
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found) == 3
    assert (found[0]["record_id"], found[0]["score"]) == ("42", 1.0)
    assert [row["score"] for row in found[1:]] == [pytest.approx(1 / 4)] * 2
    assert len(request.body["documents"]) == 50
    assert f"{name}:{RERANKERS[name][0]} read 50 rows. Cost: " in result.stderr


def test_more_rows_are_read_where_more_are_asked_for(texts: Database, worker: Worker) -> None:
    with VendorServer("cohere") as server:
        options = ["--rerank", "cohere:rerank-v4.0-fast", "--limit", str(NOTES)]
        result = worker("search", "bread", *options, **environment(server))
        [request] = server.requests
    assert len(request.body["documents"]) == NOTES
    assert len(result.stdout.splitlines()) == NOTES


def test_a_reranker_that_refuses_ends_the_search(texts: Database, worker: Worker) -> None:
    options = ["search", "bread", "--rerank"]
    with VendorServer("cohere") as server:
        wrong = environment(server) | {"COHERE_API_KEY": "wrong-0123456789abcdef"}
        cause, hint = refused(worker(*options, "cohere:rerank-v4.0-fast", **wrong), 4)
        assert cause.endswith(" answered 401: invalid api token")
        assert hint == "Check COHERE_API_KEY, then start again."
    cause, _ = refused(worker(*options, "openai:gpt"), 2)
    assert cause == "there is no reranker `openai:gpt`"
    cause, _ = refused(worker(*options, "cohere:rerank-v4.0-fast"), 2)
    assert cause == "COHERE_API_KEY is not set"


def test_rows_without_a_text_come_last_and_without_rows_nothing_is_paid() -> None:
    with VendorServer("jina") as server:
        settings = Settings.from_mapping(environment(server))
        model = f"jina:{RERANKERS['jina'][0]}"
        gone = Match("1", None, 0.1)
        bread, note = Match("2", "bread", 0.2), Match("3", "a note", 0.3)
        found = api.rerank(settings, model, "a note", [gone, bread, note])
        assert found.matches == [replace(note, score=1.0), replace(bread, score=0.0), gone]
        assert found.cost == pytest.approx(0.00005)
        assert api.rerank(settings, model, "a note", [gone]).matches == [gone]
        assert api.rerank(settings, model, "a note", []).cost == 0
        assert len(server.requests) == 1
