"""A reranker puts the rows of a search in order: on the command line and from Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import worker as api
from tests.acceptance.conftest import refused
from tests.conftest import Database, Worker, rest_in_full
from tests.openai_server import rate_limited
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


@pytest.mark.parametrize("name", rest_in_full(RERANKERS))
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
    for unknown in ("openai:gpt", ""):
        cause, _ = refused(worker(*options, unknown), 2)
        assert cause == f"there is no reranker `{unknown}`"
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


def test_an_evaluation_measures_what_a_reranker_adds(
    texts: Database, worker: Worker, tmp_path: Path
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(
        '{"query": "how to bake bread at home", "relevant": ["42"]}\n'
        '{"query": "a note about bread 7", "relevant": ["7"]}\n'
    )
    command = ["evaluate", "--queries", str(file), "--rerank", "cohere:rerank-v4.0-fast"]
    with VendorServer("cohere") as server:
        server.faults.append(rate_limited(**{"Retry-After": "0"}))
        result = worker(*command, "--json", **environment(server))
        assert [len(request.body["documents"]) for request in server.requests] == [50] * 3
        shown = worker(*command, **environment(server)).stdout
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["reranker"], found["rerank_cost"]) == ("cohere:rerank-v4.0-fast", 0.004)
    assert [score["search"] for score in found["scores"]] == ["vector", "reranked"]
    assert found["scores"][1]["ndcg"]["mean"] == 1
    [difference] = found["differences"]
    assert (difference["search"], difference["other"]) == ("reranked", "vector")
    assert "\nreranked by cohere:rerank-v4.0-fast: $0.0040\n" in shown


def test_an_evaluation_by_both_reranks_what_both_found(
    texts: Database, worker: Worker, tmp_path: Path
) -> None:
    assert worker("watch", "notes", "--column", "embedding", "--hybrid").returncode == 0
    file = tmp_path / "queries.jsonl"
    file.write_text('{"query": "bake", "relevant": ["42"]}\n')
    options = ["--queries", str(file), "--rerank", "voyage:rerank-2.5", "--json"]
    with VendorServer("voyage") as server:
        found = json.loads(worker("evaluate", *options, **environment(server)).stdout)
    searches = [score["search"] for score in found["scores"]]
    assert searches == ["vector", "text", "hybrid", "reranked"]
    assert found["by_query"][0]["ndcg"]["reranked"] == 1


def test_an_evaluation_without_the_key_of_the_reranker_pays_nothing(
    texts: Database, worker: Worker, tmp_path: Path
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('{"query": "bake", "relevant": ["42"]}\n')
    options = ["--queries", str(file), "--rerank", "jina:jina-reranker-m0"]
    assert refused(worker("evaluate", *options), 2)[0] == "JINA_API_KEY is not set"
