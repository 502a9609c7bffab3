"""The traces of whole runs and of requests to the API, as a collector gets them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.collector import Collector, Span
from tests.conftest import Database
from tests.inbox import Said
from tests.integration.jobs import insert
from tests.integration.runs import Runs, at_once
from tests.ollama_server import OllamaServer
from tests.openai_server import OpenAIServer, rate_limited
from tests.web import ADMIN_TOKEN, served_web
from worker.observers.composite import CompositeObserver
from worker.observers.tracing import request_spans, traced
from worker.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.root)
        yield collector


def values(spans: list[Span]) -> str:
    """All that the spans say."""
    return " ".join(str((span.name, span.attributes, span.events)) for span in spans)


def test_a_run_sends_its_claims_requests_and_writes_and_no_text_or_key(
    texts: Database,
    runs: Runs,
    openai: OpenAIServer,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch)
    prompt = "Describe it, hunter2."
    with OllamaServer() as ollama:
        texts.execute(
            "select watch_embeddings('docs', 'body', 'embedding', enhance => 'ollama:gemma3:12b',"
            " enhance_prompt => %s)",
            [prompt],
        )
        insert(texts, 30)
        openai.faults.append(rate_limited())
        observer = CompositeObserver()
        with traced(observer, Said().event):
            stats = replace(runs, ollama=ollama).new(batch_size=10, progress=observer).drain()
    assert stats.completed == 30

    named = {span.name: span for span in collector.spans}
    assert set(named) == {
        "run",
        "claim docs",
        "chat gemma3:12b",
        "embeddings text-embedding-3-small",
        "write docs",
    }
    run = named["run"]
    assert run.attributes["embedding_worker.completed"] == 30
    for span in collector.spans:
        assert span.trace == run.trace
        assert span.parent == ("" if span is run else run.id)

    def total(name: str, attribute: str) -> int:
        return sum(span.attributes[attribute] for span in collector.spans if span.name == name)

    assert total("claim docs", "embedding_worker.jobs") == 30
    assert total("write docs", "embedding_worker.completed") == 30
    assert total("chat gemma3:12b", "embedding_worker.texts") == 30
    embeddings = "embeddings text-embedding-3-small"
    assert total(embeddings, "embedding_worker.texts") == 30
    assert (
        total(embeddings, "gen_ai.usage.input_tokens")
        == stats.models["openai:text-embedding-3-small"].tokens
    )
    requests = Counter(span.name for span in collector.spans)[embeddings]
    retries = [event for span in collector.spans for event in span.events]
    assert retries == [("retry", {"error.type": "rate_limited"})]
    assert len(openai.requests) == requests + len(retries)
    said = values(collector.spans)
    assert not [secret for secret in ("text ", prompt, openai.api_key) if secret in said]


def test_a_request_to_the_api_has_a_span_in_the_trace_of_its_caller(
    shared_url: str, collector: Collector
) -> None:
    headers = {
        "authorization": f"Bearer {ADMIN_TOKEN}",
        "traceparent": f"00-{TRACE}-{CALLER}-01",
    }
    settings = Settings(database_url=shared_url)
    with (
        request_spans(Said().event) as spans,
        served_web(settings, spans) as web,
    ):
        assert web.as_nobody.get("/status?token=hunter2", headers=headers).status_code == 200
        assert web.as_nobody.get("/v1/models/docs.x", headers=headers).status_code == 404
        assert web.as_nobody.post("/search", json={"query": "hunter2"}).status_code == 401
        for path in ("/healthz", "/login", "/nowhere"):
            web.as_nobody.get(path)
    found = {
        span.name: (span.attributes["http.response.status_code"], span.parent)
        for span in collector.spans
    }
    assert found == {
        "GET /status": (200, CALLER),
        "GET /v1/models/{name}": (404, CALLER),
        "POST /search": (401, ""),
    }
    [status] = [span for span in collector.spans if span.name == "GET /status"]
    assert status.trace == TRACE
    assert status.attributes == {
        "http.request.method": "GET",
        "http.route": "/status",
        "http.response.status_code": 200,
        "url.path": "/status",
        "url.scheme": "http",
    }
    assert "hunter2" not in values(collector.spans)
