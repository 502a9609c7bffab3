"""Queries beside a run of the same process, and what the cache of the database knows of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from tests.conftest import Database, value
from tests.integration.runs import MODEL, Runs
from tests.openai_server import WIDTHS, OpenAIServer, vector_for
from worker.embedders.base import Concurrency
from worker.engine.providers import Limiters
from worker.errors import ProviderRefused
from worker.operations.queries import QueryEmbedder
from worker.operations.search import only_target
from worker.queue import AdminQueue
from worker.settings import Settings

NOMIC = "openai:nomic-embed-text-v1.5"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has this model too."""
    monkeypatch.setitem(WIDTHS, NOMIC.partition(":")[2], 8)


@contextmanager
def embedder_of(queue: AdminQueue, openai: OpenAIServer, **given: Any) -> Iterator[QueryEmbedder]:
    @contextmanager
    def lend() -> Iterator[AdminQueue]:
        yield queue

    settings = Settings(
        openai_api_key=openai.api_key, openai_base_url=openai.base_url, embedding_cache_mb=10
    )
    with closing(QueryEmbedder(settings, lend=lend, **given)) as embedder:
        yield embedder


def texts_sent(openai: OpenAIServer) -> list[str]:
    texts = [text for request in openai.requests for text in request.texts]
    openai.requests.clear()
    return [text for text in texts if "words" in text]


def test_a_query_is_paid_for_once_and_is_no_document(
    queue: AdminQueue, openai: OpenAIServer
) -> None:
    with embedder_of(queue, openai) as embedder:
        first = embedder.embed(["words", "other words", "words"], NOMIC)
        assert texts_sent(openai) == [
            f"search_query: {text}" for text in ("words", "other words", "words")
        ]
        again = embedder.embed(["new words", "words"], NOMIC)
        assert texts_sent(openai) == ["search_query: new words"]
        assert np.allclose(again.vectors[1], first.vectors[0], atol=1e-6)
        assert again.tokens == 6 + 5
        document = embedder.embed(["words"], NOMIC, "document")
        assert texts_sent(openai) == ["search_document: words"]
        assert np.allclose(document.vectors[0], vector_for("search_document: words", 8), atol=1e-6)


def test_the_cache_tells_prompts_apart(
    texts: Database, queue: AdminQueue, openai: OpenAIServer
) -> None:
    with embedder_of(queue, openai) as embedder:
        for prompt in ("one: ", "two: ", "one: "):
            texts.execute(
                "select watch_embeddings('docs', 'body', 'embedding', model => %s,"
                " query_prompt => %s)",
                [NOMIC, prompt],
            )
            target = only_target(queue, "docs", None)
            [vector] = embedder.embed(["words"], target).vectors
            assert np.allclose(vector, vector_for(f"{prompt}words", 8), atol=1e-6)
    assert texts_sent(openai) == ["one: words", "two: words"]


@pytest.mark.over_a_connection
def test_queries_work_while_a_run_sleeps_and_share_its_limiter(
    texts: Database, queue: AdminQueue, openai: OpenAIServer, runs: Runs
) -> None:
    texts.execute("insert into docs values (1, 'some words')")
    limiters = Limiters()
    run = runs.new(limiters=limiters)
    with embedder_of(queue, openai, limiters=limiters) as embedder, run.attended():
        run.work()
        embedder.embed(["words"], MODEL, width=8)
        run.unload()
        embedder.embed(["more words"], MODEL, width=8)
        limiters.of("openai", Concurrency(1, 1)).give_up(ProviderRefused("the key is refused"))
        for call in (run.work, lambda: embedder.embed(["yet more words"], MODEL)):
            texts.execute("insert into docs values (2, 'others') on conflict do nothing")
            with suppress(ProviderRefused):
                call()
    assert [len(request.texts) for request in openai.requests] == [1, 1, 1]
    assert value(texts, "select count(*) from embedding_queue where status = 'pending'") == 1
