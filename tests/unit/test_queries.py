"""Queries become vectors, against a server that speaks OpenAI's dialect, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.openai_server import (
    WIDTHS,
    OpenAIServer,
    hang,
    out_of_quota,
    unavailable,
    vector_for,
    without_usage,
    zeros,
)
from worker.embedders.base import Concurrency
from worker.embedders.registry import open_embedder
from worker.engine import breaker, retry
from worker.engine.providers import Limiters
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient
from worker.operations import opening
from worker.operations.queries import MOST_CHARACTERS, MOST_TEXTS, QueryEmbedder
from worker.settings import Settings

SMALL = "openai:text-embedding-3-small"
NOMIC = "openai:nomic-embed-text-v1.5"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    monkeypatch.setitem(WIDTHS, NOMIC.partition(":")[2], 8)
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def settings(server: OpenAIServer) -> Settings:
    return Settings(openai_api_key=server.api_key, openai_base_url=server.base_url)


@pytest.fixture
def embedder(settings: Settings) -> Iterator[QueryEmbedder]:
    with closing(QueryEmbedder(settings)) as embedder:
        yield embedder


def test_queries_get_the_vectors_of_their_role_in_order(
    server: OpenAIServer, embedder: QueryEmbedder
) -> None:
    queries = embedder.embed(["one", "two"], NOMIC)
    for vector, text in zip(queries.vectors, ("one", "two"), strict=True):
        assert np.allclose(vector, vector_for(f"search_query: {text}", 8), atol=1e-6)
    document = embedder.embed(["one"], NOMIC, "document")
    assert np.allclose(document.vectors[0], vector_for("search_document: one", 8), atol=1e-6)
    assert queries.tokens == 2 * 5


def test_a_shorter_width_is_asked_for(embedder: QueryEmbedder) -> None:
    assert embedder.embed(["one"], SMALL, width=256).vectors.shape == (1, 256)
    assert embedder.embed(["one"], SMALL).vectors.shape == (1, 1536)


def test_tokens_and_cost_are_those_that_are_known(
    server: OpenAIServer, embedder: QueryEmbedder
) -> None:
    embedded = embedder.embed(["some words"], SMALL)
    assert embedded.tokens == 3
    assert embedded.cost == pytest.approx(3 * 0.02 / 1e6)
    server.faults.append(without_usage)
    embedded = embedder.embed(["some words"], SMALL)
    assert (embedded.tokens, embedded.cost) == (None, None)


def test_a_model_that_many_ask_for_first_is_opened_once(
    settings: Settings, embedder: QueryEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def slowly(model: str, *given: Any) -> Any:
        opened.append(model)
        time.sleep(0.1)
        return open_embedder(model, *given)

    monkeypatch.setattr(opening, "open_embedder", slowly)
    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(embedder.embed, ["one"], SMALL) for _ in range(8)]:
            call.result(timeout=10)
    assert opened == [SMALL]


def test_the_model_that_was_not_used_for_the_longest_time_makes_room(
    embedder: QueryEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MOST_MODELS", 2)
    opened: list[int | None] = []

    def counted(model: str, width: int | None, *given: Any) -> Any:
        opened.append(width)
        return open_embedder(model, width, *given)

    monkeypatch.setattr(opening, "open_embedder", counted)
    for width in (8, 16, 8, 32, 8, 16):
        embedder.embed(["one"], SMALL, width=width)
    assert opened == [8, 16, 32, 16]


def test_models_in_use_are_not_closed_for_another(
    server: OpenAIServer, embedder: QueryEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MOST_MODELS", 1)
    server.latency = 0.5
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(embedder.embed, ["one"], SMALL)
        while not server.requests:
            time.sleep(0.01)
        with pytest.raises(Transient, match="1 models are in use") as refused:
            embedder.embed(["one"], NOMIC)
        assert refused.value.hint == "Try again soon."
        assert first.result(timeout=5).vectors.shape == (1, 1536)


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        ([], "there are 0 texts"),
        (["a"] * (MOST_TEXTS + 1), "there are 2049 texts"),
        (["a", " \n"], "blank"),
        (["a" * (MOST_CHARACTERS + 1)], "more than 1000000 characters"),
    ],
)
def test_what_cannot_be_embedded_is_refused_before_anything_is_sent(
    server: OpenAIServer, embedder: QueryEmbedder, texts: list[str], cause: str
) -> None:
    with pytest.raises(SettingsError, match=cause):
        embedder.embed(texts, SMALL)
    assert not server.requests


def test_many_texts_go_in_as_many_requests_as_the_model_takes(embedder: QueryEmbedder) -> None:
    texts = [f"{number} {'word ' * (number % 7)}" for number in range(1001)]
    vectors = embedder.embed(texts, "local:wordllama-256").vectors
    for place in (0, 500, 1000):
        alone = embedder.embed([texts[place]], "local:wordllama-256").vectors[0]
        assert np.allclose(vectors[place], alone, atol=1e-6)


def test_a_text_that_is_too_long_is_rejected(server: OpenAIServer, embedder: QueryEmbedder) -> None:
    with pytest.raises(Rejected):
        embedder.embed(["word " * 20_000], SMALL)


def test_a_useless_vector_is_not_returned(server: OpenAIServer, embedder: QueryEmbedder) -> None:
    server.faults.append(zeros)
    with pytest.raises(Transient, match="zeros"):
        embedder.embed(["one"], SMALL)


def test_a_call_ends_at_its_deadline(settings: Settings, server: OpenAIServer) -> None:
    server.faults.append(hang)
    with closing(QueryEmbedder(settings, deadline=0.5)) as embedder:
        began = time.monotonic()
        with pytest.raises(Transient, match=r"did not answer within 0\.5 s"):
            embedder.embed(["one"], SMALL)
        assert time.monotonic() - began < 2
        assert embedder.embed(["two"], SMALL).tokens == 1


def test_a_query_is_refused_while_the_provider_is_known_to_be_out_and_then_tries_it(
    settings: Settings, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.3)
    limiters = Limiters()
    of_a_run = limiters.of("openai", Concurrency(1, 1))
    of_a_run.give_up(Transient("the provider is out", error_class="unreachable"))
    with closing(QueryEmbedder(settings, limiters)) as embedder:
        with pytest.raises(Transient, match="the provider is out"):
            embedder.embed(["one"], SMALL)
        assert not server.requests
        time.sleep(0.4)
        server.faults.append(unavailable)
        with pytest.raises(Transient, match="503"):
            embedder.embed(["one"], SMALL)
        assert of_a_run.breaker.blocks
        time.sleep(0.7)
        embedder.embed(["one"], SMALL)
        assert not of_a_run.breaker.is_open


@pytest.mark.parametrize("fault", [out_of_quota, unavailable])
def test_a_query_that_fails_does_not_stop_the_documents_of_a_run(
    settings: Settings, server: OpenAIServer, fault: Any
) -> None:
    limiters = Limiters()
    with closing(QueryEmbedder(settings, limiters)) as embedder:
        server.faults.append(fault)
        with pytest.raises((Transient, ProviderRefused)):
            embedder.embed(["one"], SMALL)
        of_a_run = limiters.of("openai", Concurrency(1, 1))
        assert not of_a_run.breaker.is_open
        of_a_run.call(lambda: None, Event())
