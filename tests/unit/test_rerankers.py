"""The vendors' rerankers, each against a stand-in with the fields of its reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.http_server import answers
from tests.vendor_server import RERANKERS, VendorServer
from worker.embedders.base import Reranker
from worker.embedders.registry import open_reranker
from worker.embedders.rerankers import FIELDS, MOST_CHARACTERS
from worker.errors import ProviderRefused, SettingsError, Transient, WorkerError
from worker.settings import Settings

TEXTS = ["nothing of it", "all the words are here", "only the words"]

each_vendor = pytest.mark.parametrize("name", RERANKERS)


@contextmanager
def reranker_at(server: VendorServer, model: str | None = None, **more: Any) -> Iterator[Reranker]:
    settings = Settings(
        **{f"{server.name}_api_key": server.key, f"{server.name}_base_url": server.base_url} | more
    )
    reranker = open_reranker(f"{server.name}:{model or RERANKERS[server.name][0]}", settings)
    yield reranker
    reranker.close()


def failure(server: VendorServer, model: str | None = None, **more: Any) -> Any:
    with reranker_at(server, model, **more) as reranker, pytest.raises(WorkerError) as caught:
        reranker.rerank("words", TEXTS)
    return caught.value


def test_there_is_a_stand_in_for_each_reranker() -> None:
    assert FIELDS.keys() == RERANKERS.keys()


@each_vendor
def test_scores_are_in_the_order_of_the_texts(name: str) -> None:
    with VendorServer(name) as server, reranker_at(server) as reranker:
        assert reranker.rerank("all words here", TEXTS) == [0, 1, pytest.approx(1 / 3)]
        [request] = server.requests
    assert request.body["documents"] == TEXTS
    assert reranker.model == f"{name}:{RERANKERS[name][0]}"


@pytest.mark.parametrize(
    ("name", "cost"), [("cohere", 0.004), ("voyage", 0.0001), ("jina", 0.0001)]
)
def test_costs_add_up(name: str, cost: float) -> None:
    with VendorServer(name) as server, reranker_at(server) as reranker:
        assert reranker.spent == 0
        reranker.rerank("words", TEXTS)
        reranker.rerank("words", TEXTS)
        assert reranker.spent == pytest.approx(cost)


def test_a_cost_that_is_not_said_is_unknown() -> None:
    items = [{"index": place, "relevance_score": 0.5} for place in range(3)]
    with VendorServer("voyage") as server, reranker_at(server) as reranker:
        server.faults.append(answers(200, {"data": items}))
        reranker.rerank("words", TEXTS)
        assert reranker.spent is None
    with VendorServer("voyage") as server, reranker_at(server, "rerank-99") as reranker:
        assert reranker.spent == 0
        server.faults.append(answers(200, {"data": items, "usage": {"total_tokens": 9}}))
        reranker.rerank("words", TEXTS)
        assert reranker.spent is None


@each_vendor
def test_only_the_beginning_of_a_long_text_is_sent(name: str) -> None:
    with VendorServer(name) as server, reranker_at(server) as reranker:
        reranker.rerank("wo\ud800rds", ["x" * (MOST_CHARACTERS + 1), "\ud800"])
        [request] = server.requests
    assert request.body["documents"] == ["x" * MOST_CHARACTERS, "?"]
    assert request.body["query"] == "wo?rds"


@each_vendor
def test_a_wrong_key_and_an_unknown_model_are_refused(name: str) -> None:
    with VendorServer(name) as server:
        wrong = failure(server, **{f"{name}_api_key": "wrong-0123456789abcdef"})
        unknown = failure(server, "rerank-99")
    assert (type(wrong), wrong.error_class) == (ProviderRefused, "unauthorized")
    assert wrong.hint == f"Check {name.upper()}_API_KEY, then start again."
    assert (type(unknown), unknown.error_class) == (ProviderRefused, "not_found")


ODD: list[Any] = [
    [],
    {},
    {"results": None},
    {"results": []},
    {"results": [{"index": 0, "relevance_score": 1}] * 3},
    *(
        {
            "results": [
                {"index": 0, "relevance_score": 0.1},
                {"index": index, "relevance_score": score},
                {"index": 2, "relevance_score": 0.1},
            ]
        }
        for index, score in [(3, 0.1), (True, 0.1), (1, None), (1, "0.1"), (1, True), (None, 0.1)]
    ),
]


@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
def test_an_odd_answer_is_a_bad_one(odd: Any) -> None:
    with VendorServer("cohere") as server:
        server.faults.append(answers(200, odd))
        error = failure(server)
    assert (type(error), error.error_class) == (Transient, "bad_answer")


def test_a_number_that_cannot_be_is_a_bad_answer() -> None:
    with VendorServer("cohere") as server:
        for number in (b"NaN", b"Infinity", b"1e999"):
            server.faults.append(
                answers(200, b'{"results": [{"index": 0, "relevance_score": ' + number + b"}]}")
            )
            assert failure(server).error_class == "bad_answer"


@pytest.mark.parametrize("model", ["openai:x", "cohere", "cohere:", "", "cohere-rerank"])
def test_what_is_no_reranker_is_an_error_of_settings(model: str) -> None:
    with pytest.raises(SettingsError, match="there is no reranker"):
        open_reranker(model, Settings())


def test_a_reranker_needs_the_key_of_its_vendor() -> None:
    with pytest.raises(SettingsError, match="COHERE_API_KEY is not set"):
        open_reranker("cohere:rerank-v4.0-fast", Settings())
