"""Agents search by the official client of the Model Context Protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import worker as api
from tests.conftest import Database, Server, TemplateOf, migrate, new_database
from tests.web import Web, served_web
from worker.operations.api_keys import create_key
from worker.settings import Settings


def one_column(db: Database) -> None:
    migrate(db.info.dsn)
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 256)")
    db.execute("insert into docs values (1, 'A castle in the snow'), (2, 'A recipe for bread')")
    with api.open_database(Settings(database_url=db.info.dsn)) as queue:
        api.process(queue, Settings())


@pytest.fixture(scope="module")
def settings(postgres: Any, template_of: TemplateOf) -> Iterator[Settings]:
    url = postgres("18")
    with new_database(url, template_of(url, one_column)) as name:
        yield Settings(database_url=Server(url, url).direct_url_of(name))


@pytest.fixture(scope="module")
def web(settings: Settings) -> Iterator[Web]:
    with served_web(settings) as web:
        yield web


def new_key(settings: Settings, *scopes: str, rate: int | None = None) -> str:
    with api.open_queue(settings) as queue:
        name = f"{'-'.join(scopes)} {rate}"
        return create_key(queue, name, scopes, requests_per_minute=rate)


def by_an_agent(web: Web, key: str, calls: list[tuple[str, dict[str, Any]]], mode: str) -> Any:
    """The names of the tools that an agent gets, and what its calls return."""

    async def act() -> Any:
        headers = {"authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(f"{web.url}/mcp", http_client=http), mode=mode) as agent,
        ):
            tools = [tool.name for tool in (await agent.list_tools()).tools]
            return tools, [await agent.call_tool(name, given) for name, given in calls]

    return asyncio.run(act())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_agent_searches_and_reads_the_state(web: Web, settings: Settings, mode: str) -> None:
    key = new_key(settings, "search", "status", rate=1000 + len(mode))
    tools, (found, state) = by_an_agent(
        web, key, [("search", {"query": "bread", "limit": 1}), ("status", {})], mode
    )
    assert tools == ["search", "status"]
    assert not found.is_error
    [match] = found.structured_content["matches"]
    assert match["content"] == "A recipe for bread"
    assert json.loads(found.content[0].text)["matches"] == [match]
    assert state.structured_content["columns"][0]["table_name"] == "docs"


def test_an_agent_does_what_the_scopes_of_its_key_say(web: Web, settings: Settings) -> None:
    key = new_key(settings, "status")
    calls = [("search", {"query": "bread"}), ("status", {}), ("drop", {})]
    tools, (refused, state, unknown) = by_an_agent(web, key, calls, "auto")
    assert tools == ["status"]
    assert refused.is_error
    assert "no scope `search`" in refused.content[0].text
    assert not state.is_error
    assert unknown.is_error


def test_a_mistake_is_told_so_that_the_agent_can_correct_it(web: Web, settings: Settings) -> None:
    key = new_key(settings, "search")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("search", {"query": "bread", "table": "unknown"}),
        ("search", {"query": "bread", "limit": 1000}),
        ("search", {}),
    ]
    _, answers = by_an_agent(web, key, calls, "auto")
    for answer, words in zip(answers, ("unknown", "limit", "query"), strict=True):
        assert answer.is_error
        assert words in answer.content[0].text


def test_who_has_no_key_gets_nothing(web: Web, settings: Settings) -> None:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"accept": "application/json, text/event-stream"}

    def status_of(**headers: str) -> int:
        answer = httpx.post(f"{web.url}/mcp", json=asked, headers=accept | headers)
        return answer.status_code

    assert status_of() == 401
    assert status_of(authorization="Bearer ew_wrong") == 401
    assert status_of(authorization=f"Bearer {new_key(settings, 'embed')}") == 403
    assert httpx.get(f"{web.url}/mcp", headers=accept).status_code == 405
    assert status_of(host="evil.example") == 421
