"""The endpoints of the API, and where they are."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.web.api import bodies, embeddings, search, status
from worker.web.api.endpoints import ApiServices, Endpoint
from worker.web.api.openapi import document_of

MODEL_PROBLEMS = (502, 503)
ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/embeddings",
        "Embed texts, in the shape of OpenAI",
        "embed",
        bodies.EmbeddingsRequest,
        bodies.EmbeddingsAnswer,
        embeddings.embed,
        (404, *MODEL_PROBLEMS),
    ),
    Endpoint(
        "GET",
        "/v1/models",
        "List the columns and models that can be named",
        "embed",
        None,
        bodies.ModelsAnswer,
        embeddings.list_models,
    ),
    Endpoint(
        "GET",
        "/v1/models/{name:path}",
        "Show one of them",
        "embed",
        None,
        bodies.ModelEntry,
        embeddings.show_model,
        (404,),
    ),
    Endpoint(
        "POST",
        "/api/embeddings/generate",
        "Embed one text",
        "embed",
        bodies.GenerateRequest,
        bodies.GenerateAnswer,
        embeddings.generate,
        (404, *MODEL_PROBLEMS),
    ),
    Endpoint(
        "POST",
        "/search",
        "Search a watched column",
        "search",
        bodies.SearchRequest,
        bodies.SearchAnswer,
        search.search,
        (404, *MODEL_PROBLEMS),
    ),
    Endpoint(
        "GET",
        "/status",
        "Show the state of the columns and workers",
        "status",
        None,
        bodies.StatusAnswer,
        status.status,
    ),
    Endpoint(
        "GET",
        "/healthz",
        "Tell whether the process answers",
        None,
        None,
        bodies.HealthAnswer,
        status.health,
        waits=False,
    ),
    Endpoint(
        "GET",
        "/readyz",
        "Tell whether the database can be reached and fits",
        None,
        None,
        bodies.HealthAnswer,
        status.readiness,
    ),
)


def api_routes(shared: ApiServices) -> list[BaseRoute]:
    """Return the routes of the API."""

    async def respond(endpoint: Endpoint, request: Request) -> Response:
        return await endpoint.respond(shared, request)

    document = document_of(ENDPOINTS, shared.services.prefix)

    async def describe(request: Request) -> Response:
        return Response(document, media_type="application/json")

    def route(path: str, answer: Any, method: str, *, is_traced: bool = True) -> Route:
        traced = shared.services.traced if is_traced else None
        spans = [Middleware(traced, path.replace(":path}", "}"))] if traced else []
        return Route(path, answer, methods=[method], middleware=spans)

    return [
        *(
            route(each.path, partial(respond, each), each.method, is_traced=bool(each.scope))
            for each in ENDPOINTS
        ),
        route("/openapi.json", describe, "GET", is_traced=False),
        route("/mcp", Agents(shared), "POST"),
    ]


class Agents:
    """Tools for agents. The package is imported at the first request: that takes a second."""

    def __init__(self, shared: ApiServices) -> None:
        self._shared = shared
        self._server: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises HTTPException if the package is not installed."""
        if self._server is None:
            try:
                from worker.web.api.mcp import McpServer
            except ImportError:
                cause = "Tools for agents need the package mcp: pip install 'embedding-worker[mcp]'"
                raise HTTPException(501, cause) from None
            self._server = McpServer(self._shared)
        await self._server(scope, receive, send)
