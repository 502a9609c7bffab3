"""The HTTP API, by a real server: OpenAI's client and plain HTTP, keys, limits, and what is
refused."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai as clients
import psycopg
import pytest

import worker as api
from tests.conftest import IN_CI, REPOSITORY, Database, Server, TemplateOf, migrate, new_database
from tests.openai_server import OpenAIServer, hang, unavailable, vector_for
from tests.supabase_project import over_tcp
from tests.web import ADMIN_TOKEN, READ_TOKEN, Web, served_web
from worker.embedders.registry import open_embedder
from worker.operations.api_keys import create_key, revoke_key
from worker.settings import Settings
from worker.web import server as servers
from worker.web.api import permits

SCHEMATHESIS = REPOSITORY / ".parts/schemathesis/bin/schemathesis"
LANGCHAIN = REPOSITORY / ".parts/langchain/bin/python"
LOCAL = "local:wordllama-256"
SMALL = "openai:text-embedding-3-small"
DOCS = "docs.embedding"
NOTES = "notes.embedding"


def two_columns(db: Database) -> None:
    migrate(db.info.dsn)
    db.execute("create table docs (id bigint primary key, body text, lang text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 256,"
        " language => 'english', match_function => true)"
    )
    db.execute(
        "insert into docs values (1, 'A castle in the snow', 'en'), (2, 'A recipe for bread', 'en')"
    )
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 8,"
        f" model => '{SMALL}', query_prompt => 'find: ')"
    )
    with api.open_database(Settings(database_url=db.info.dsn)) as queue:
        api.process(queue, Settings(), table="docs")


@pytest.fixture(scope="module")
def openai_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def openai(openai_server: OpenAIServer) -> OpenAIServer:
    openai_server.requests.clear()
    openai_server.faults.clear()
    return openai_server


@pytest.fixture(scope="module")
def settings(
    postgres: Any, template_of: TemplateOf, openai_server: OpenAIServer
) -> Iterator[Settings]:
    url = postgres("18")
    server = Server(url, url)
    with new_database(url, template_of(url, two_columns)) as name:
        yield Settings(
            database_url=server.direct_url_of(name),
            openai_api_key=openai_server.api_key,
            openai_base_url=openai_server.base_url,
        )


@pytest.fixture(scope="module")
def web(settings: Settings) -> Iterator[Web]:
    with served_web(settings) as web:
        yield web


@pytest.fixture(scope="module")
def db(settings: Settings) -> Iterator[Database]:
    assert settings.database_url
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        yield connection


def new_key(settings: Settings, *scopes: str, rate: int | None = None) -> str:
    with api.open_queue(settings) as queue:
        name = f"key {time.monotonic_ns()}"
        return create_key(queue, name, scopes, requests_per_minute=rate)


@pytest.fixture(scope="module")
def key(settings: Settings) -> str:
    return new_key(settings, "embed", "search", "status")


@pytest.fixture(scope="module")
def http(web: Web, key: str) -> Iterator[httpx.Client]:
    """Calls the API with a key that may do all."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=web.url, headers=headers, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def client(web: Web, key: str) -> Iterator[clients.OpenAI]:
    with clients.OpenAI(base_url=f"{web.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def told(answer: httpx.Response, status: int) -> str:
    """What a refusal says. It has the shape of OpenAI's."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "hint", "type", "code", "param"}
    return str(error["message"])


# -- embeddings


def test_the_client_of_openai_gets_the_vectors_of_a_column(
    client: clients.OpenAI, openai: OpenAIServer
) -> None:
    by_default = client.embeddings.create(model=NOTES, input=["one", "two"])
    for data, text in zip(by_default.data, ("one", "two"), strict=True):
        assert np.allclose(data.embedding, vector_for(f"find: {text}", 8), atol=1e-6)
    assert by_default.usage.total_tokens > 0
    floats = client.embeddings.create(model=NOTES, input="one", encoding_format="float")
    assert np.allclose(floats.data[0].embedding, by_default.data[0].embedding, atol=1e-6)
    document = client.embeddings.create(
        model=NOTES, input="one", extra_body={"input_type": "document"}
    )
    assert np.allclose(document.data[0].embedding, vector_for("one", 8), atol=1e-6)
    named = client.embeddings.create(model=SMALL, input="one", dimensions=16)
    assert np.allclose(named.data[0].embedding, vector_for("one", 16), atol=1e-6)


def test_the_client_of_openai_lists_columns_and_models(client: clients.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {DOCS, NOTES, LOCAL, SMALL}
    assert client.models.retrieve(SMALL).owned_by == "openai"
    with pytest.raises(clients.NotFoundError):
        client.models.retrieve("nothing")


def test_refusals_are_those_that_the_client_of_openai_knows(
    client: clients.OpenAI, web: Web, openai: OpenAIServer
) -> None:
    with pytest.raises(clients.NotFoundError, match="no such model"):
        client.embeddings.create(model="text-embedding-3-small", input="one")
    with pytest.raises(clients.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=NOTES, input=[[1, 2], [3]])
    with pytest.raises(clients.BadRequestError, match="the column has 8"):
        client.embeddings.create(model=NOTES, input="one", dimensions=16)
    assert openai.requests == []
    with pytest.raises(clients.BadRequestError, match="tokens"):
        client.embeddings.create(model=NOTES, input="word " * 20_000)
    with (
        clients.OpenAI(base_url=f"{web.url}/v1", api_key="ew_wrong", max_retries=0) as wrong,
        pytest.raises(clients.AuthenticationError),
    ):
        wrong.embeddings.create(model=NOTES, input="one")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"\\ud800"',
        b'{"model": "notes.embedding"}',
        b'{"model": "notes.embedding", "input": []}',
        b'{"model": "notes.embedding", "input": ""}',
        b'{"model": "notes.embedding", "input": ["a", ""]}',
        b'{"model": "notes.embedding", "input": [1, 2]}',
        b'{"model": "notes.embedding", "input": "a", "input_type": "other"}',
        b'{"model": "notes.embedding", "input": "a", "dimensions": 0}',
        b'{"model": "notes.embedding", "input": "a", "dimensions": "8"}',
        b'{"model": "notes.embedding", "input": "a", "encoding_format": "hex"}',
        b'{"model": 5, "input": "a"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_not_as_described_is_refused(
    http: httpx.Client, openai: OpenAIServer, body: bytes
) -> None:
    assert told(http.post("/v1/embeddings", content=body), 400)
    assert openai.requests == []


def test_a_refusal_repeats_nothing_of_the_body(http: httpx.Client) -> None:
    body = {"model": NOTES, "input": "a", "input_type": "hunter2", "encoding_format": "hunter2"}
    assert "hunter2" not in http.post("/v1/embeddings", json=body).text


def test_a_model_that_nobody_watches_is_not_called(http: httpx.Client, web: Web) -> None:
    for model in (f"http:{web.url}/api", "ollama:x", "openai:text-embedding-3-large", "x.y", "."):
        answer = http.post("/v1/embeddings", json={"model": model, "input": "a"})
        assert "no such model" in told(answer, 404)


def test_an_outage_of_the_provider_is_told(http: httpx.Client, openai: OpenAIServer) -> None:
    openai.faults += [unavailable] * 20
    body = {"model": NOTES, "input": "one"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.engine.retry.RETRY_SECONDS", 0.0)
        answer = http.post("/v1/embeddings", json=body)
    assert "503" in told(answer, 503)
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["hint"] == "Try again soon."
    openai.faults.clear()
    assert http.post("/v1/embeddings", json=body).status_code == 200


def test_a_request_ends_at_its_deadline(
    settings: Settings, key: str, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "LONGEST_QUERY", 0.5)
    with served_web(settings) as web:
        openai.faults.append(hang)
        answer = web.as_nobody.post(
            "/v1/embeddings",
            json={"model": NOTES, "input": "one"},
            headers={"authorization": f"Bearer {key}"},
        )
        assert "within 0.5 s" in told(answer, 503)


def test_the_dashboard_does_not_wait_for_a_model(
    web: Web, key: str, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai.latency = 1.0
    asked = {"model": NOTES, "input": "one"}
    headers = {"authorization": f"Bearer {key}"}
    with ThreadPoolExecutor(50) as pool, httpx.Client(base_url=web.url, timeout=60) as client:
        calls = [
            pool.submit(client.post, "/v1/embeddings", json=asked, headers=headers)
            for _ in range(50)
        ]
        time.sleep(0.3)
        assert web.get("/").status_code == 200
        assert web.as_nobody.get("/readyz").status_code == 200
        assert not all(call.done() for call in calls)
        openai.latency = 0.0
        assert {call.result().status_code for call in calls} == {200}


def test_the_endpoint_of_the_guide_embeds_as_the_worker_does_by_it(
    web: Web, http: httpx.Client, key: str
) -> None:
    answer = http.post("/api/embeddings/generate", json={"text": "some words"}).json()
    assert (answer["model"], answer["dimensions"]) == (LOCAL, 256)
    given = Settings(embedding_api_token=key, next_public_api_base_url=web.url)
    with (
        closing(open_embedder("http:/api/embeddings/generate", None, given)) as embedder,
        closing(open_embedder(LOCAL, None, given)) as local,
    ):
        embedder.probe()
        [vector] = embedder.embed(["some words"], "document").vectors
        assert np.allclose(vector, answer["embedding"], atol=1e-6)
        assert np.allclose(vector, local.embed(["some words"], "document").vectors[0], atol=1e-6)


# -- search and status


@pytest.mark.parametrize("mode", [None, "vector", "text", "hybrid"])
def test_a_key_searches_a_column(http: httpx.Client, mode: str | None) -> None:
    asked = {"query": "bread", "table": "docs", "mode": mode}
    found = http.post("/search", json=asked).json()["matches"]
    assert found[0]["record_id"] == "2"
    assert found[0]["content"] == "A recipe for bread"
    assert len(found) == (1 if mode == "text" else 2)


def test_searches_are_limited_and_filtered(http: httpx.Client) -> None:
    asked = {"query": "bread", "table": "docs", "limit": 1, "filter": {"id": [1]}}
    assert [each["record_id"] for each in http.post("/search", json=asked).json()["matches"]] == [
        "1"
    ]
    for wrong, status, cause in (
        ({"filter": {"no_column": 1}}, 400, "no_column"),
        ({"table": "unknown"}, 404, "unknown"),
        ({"table": None}, 404, "several columns"),
        ({"column": "embedding\0"}, 404, ""),
        ({"limit": 101}, 400, "limit"),
        ({"query": ""}, 400, "query"),
        ({"query": " "}, 400, "query"),
        ({"filter": {"id": {"$ne": None}}}, 400, ""),
    ):
        assert cause in told(http.post("/search", json=asked | wrong), status)


def test_the_state_is_that_of_the_command(http: httpx.Client) -> None:
    state = http.get("/status").json()
    assert state.keys() >= {"columns", "workers", "failures"}, state.keys()


def test_health_is_told_to_everybody_by_any_name(web: Web) -> None:
    for path in ("/healthz", "/readyz"):
        assert web.as_nobody.get(path, headers={"host": "10.1.2.3:8080"}).json() == {"status": "ok"}
    assert web.as_nobody.get("/status", headers={"host": "10.1.2.3:8080"}).status_code == 421


def test_who_is_not_ready_says_so(settings: Settings) -> None:
    gone = replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none")
    with served_web(gone) as web:
        assert web.as_nobody.get("/healthz").status_code == 200
        told(web.as_nobody.get("/readyz"), 503)


# -- who may call, and how often


@pytest.mark.parametrize("scope", ["embed", "search", "status"])
def test_a_key_does_only_what_its_scopes_say(web: Web, settings: Settings, scope: str) -> None:
    headers = {"authorization": f"Bearer {new_key(settings, scope)}"}
    answers = {
        "embed": web.as_nobody.get("/v1/models", headers=headers).status_code,
        "search": web.as_nobody.post(
            "/search", headers=headers, json={"query": "bread", "table": "docs"}
        ).status_code,
        "status": web.as_nobody.get("/status", headers=headers).status_code,
    }
    assert answers == {name: 200 if name == scope else 403 for name in answers}


def test_the_tokens_of_operators_are_taken_and_cookies_are_not(web: Web) -> None:
    def status_of(path: str, token: str) -> int:
        headers = {"authorization": f"Bearer {token}"}
        return web.as_nobody.get(path, headers=headers).status_code

    assert status_of("/v1/models", ADMIN_TOKEN) == 200
    assert status_of("/status", READ_TOKEN) == 200
    assert status_of("/v1/models", READ_TOKEN) == 403
    assert web.as_admin.get("/status").status_code == 401
    for authorization in ("", "Bearer", "Basic eDp5", "ew_x"):
        answer = web.as_nobody.get("/status", headers={"authorization": authorization})
        assert "worker keys create" in told(answer, 401)


def test_wrong_tokens_are_limited_and_keys_still_work(settings: Settings, key: str) -> None:
    with served_web(settings) as web:
        statuses = [
            web.as_nobody.get("/status", headers={"authorization": f"Bearer wrong{n}"}).status_code
            for n in range(12)
        ]
        assert statuses == [401] * 10 + [429] * 2
        headers = {"authorization": f"Bearer {key}"}
        assert web.as_nobody.get("/status", headers=headers).status_code == 200


def test_a_key_that_is_revoked_is_refused_soon(
    web: Web, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "KNOWN_FOR", 0.2)
    with api.open_queue(settings) as queue:
        headers = {"authorization": f"Bearer {create_key(queue, 'revoked', ['status'])}"}
        assert web.as_nobody.get("/status", headers=headers).status_code == 200
        revoke_key(queue, "revoked")
    time.sleep(0.3)
    assert "revoked" in told(web.as_nobody.get("/status", headers=headers), 401)


def test_a_key_may_not_be_used_more_often_than_it_says(web: Web, settings: Settings) -> None:
    headers = {"authorization": f"Bearer {new_key(settings, 'status', 'embed', rate=3)}"}
    statuses = [web.as_nobody.get("/v1/models", headers=headers).status_code for _ in range(5)]
    assert statuses == [200] * 3 + [429] * 2
    refused = web.as_nobody.get("/v1/models", headers=headers)
    assert refused.headers["retry-after"] == "60"


@pytest.mark.parametrize(
    ("times", "allowed"),
    [
        ([0.0] * 5, 4),
        ([0.0] * 4 + [59.9], 4),
        ([0.0] * 4 + [61.0], 4),  # nearly all of the minute before still count
        ([0.0] * 4 + [91.0] * 3, 6),
        ([0.0] * 4 + [200.0] * 4, 8),
    ],
)
def test_the_requests_of_the_last_minute_count(times: list[float], allowed: int) -> None:
    limit = permits.RateLimit()
    assert sum(limit.take(4, 600 + at) for at in times) == allowed


def test_a_column_with_any_name_can_be_named(settings: Settings, key: str, db: Database) -> None:
    db.execute('create table "Weird.Table" (id bigint primary key, body text)')
    db.execute(
        """select watch_embeddings('"Weird.Table"', 'body', 'my.own embedding', dimensions => 64)"""
    )
    headers = {"authorization": f"Bearer {key}"}
    with served_web(settings) as web:
        listed = web.as_nobody.get("/v1/models", headers=headers).json()["data"]
        [name] = [each["id"] for each in listed if "Weird" in each["id"]]
        body = {"model": name, "input": "a"}
        answer = web.as_nobody.post("/v1/embeddings", json=body, headers=headers)
        assert len(answer.json()["data"][0]["embedding"]) == 64
    db.execute("""select unwatch_embeddings('"Weird.Table"', 'my.own embedding')""")


# -- what is described


def test_the_description_has_every_endpoint_and_is_for_everybody(web: Web) -> None:
    described = web.as_nobody.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    assert set(described["paths"]) == {
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{name}",
        "/api/embeddings/generate",
        "/search",
        "/status",
        "/healthz",
        "/readyz",
    }
    named = set(json.dumps(described).split('"#/components/schemas/')[1:])
    assert {name.partition('"')[0] for name in named} <= set(described["components"]["schemas"])


def test_other_methods_are_refused(http: httpx.Client, web: Web) -> None:
    for path, methods in web.as_nobody.get("/openapi.json").json()["paths"].items():
        other = "PUT" if path == "/search" or "get" in methods else "GET"
        assert http.request(other, path).status_code == 405, path


def test_many_clients_at_once_are_served(http: httpx.Client, web: Web, key: str) -> None:
    failed: list[int] = []
    began = threading.Barrier(8)

    def ask() -> None:
        began.wait(10)
        for number in range(10):
            body = {"model": DOCS, "input": f"words {number}"}
            status = http.post("/v1/embeddings", json=body).status_code
            failed.extend([status] if status != 200 else [])

    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(ask) for _ in range(8)]:
            call.result(timeout=60)
    assert failed == []


# -- clients that others wrote


@pytest.mark.skipif(not SCHEMATHESIS.exists() and not IN_CI, reason="schemathesis is not installed")
def test_the_description_is_true(web: Web, key: str, tmp_path: Path, full: bool) -> None:
    """Schemathesis sends what is described, and what is not, and compares the answers."""
    command = [
        str(SCHEMATHESIS),
        *("run", f"{web.url}/openapi.json", "--header", f"Authorization: Bearer {key}"),
        # A filter by a column that is not there fits the description, and is refused; and
        # GET /search is a screen of the dashboard.
        *("--checks", "all"),
        *("--exclude-checks", "positive_data_acceptance,unsupported_method"),
        *(
            "--max-examples",
            "5",
            "--seed",
            "1",
            "--phases",
            "coverage,fuzzing" if full else "coverage",
        ),
        *("--suppress-health-check", "all"),
    ]
    done = subprocess.run(  # in a folder of its own, since it keeps what it has found
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "8 selected" in done.stdout


LANGCHAIN_SEARCHES = """
import json, sys
from langchain_openai import OpenAIEmbeddings
from langchain_postgres import PGEngine, PGVectorStore
database, api, key, query = sys.argv[1:]
store = PGVectorStore.create_sync(
    engine=PGEngine.from_connection_string(database),
    table_name="docs",
    embedding_service=OpenAIEmbeddings(
        base_url=f"{api}/v1", api_key=key, model="docs.embedding", check_embedding_ctx_length=False
    ),
    id_column="id",
    content_column="body",
    embedding_column="embedding",
    metadata_columns=["lang"],
    metadata_json_column=None,
)
found = store.similarity_search_with_score(query, k=2)
print(json.dumps([[each.page_content, float(distance)] for each, distance in found]))
"""


@pytest.mark.only_in_full
@pytest.mark.skipif(not LANGCHAIN.exists() and not IN_CI, reason="LangChain is not installed")
def test_langchain_searches_our_columns_by_our_vectors(
    settings: Settings, web: Web, http: httpx.Client, key: str
) -> None:
    assert settings.database_url
    with over_tcp(settings.database_url) as url:
        given = [url.replace("postgresql://", "postgresql+psycopg://"), web.url, key, "bread"]
        done = subprocess.run(
            [str(LANGCHAIN), "-c", LANGCHAIN_SEARCHES, *given],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    asked = {"query": "bread", "table": "docs", "mode": "vector"}
    ours = http.post("/search", json=asked).json()["matches"]
    for (content, distance), match in zip(json.loads(done.stdout), ours, strict=True):
        assert content == match["content"]
        assert distance == pytest.approx(match["distance"], abs=1e-6)
