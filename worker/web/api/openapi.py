"""The description of the API, which clients are made of: OpenAPI 3.1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from worker import __version__
from worker.web.api.bodies import ProblemAnswer
from worker.web.api.endpoints import Endpoint

REFERENCE = "#/components/schemas/{model}"
WORDS = {
    400: "The request is not as described.",
    401: "There is no valid key or token.",
    403: "The key or token lacks the right.",
    404: "There is no such model or column.",
    413: "The body is too large.",
    429: "There were too many requests within a minute.",
    500: "A defect.",
    502: "The provider of the model refuses.",
    503: "The database or the provider is out of reach: try again soon.",
}


def document_of(endpoints: Sequence[Endpoint], prefix: str) -> str:
    """Return the description of these endpoints, as JSON."""
    models: set[type[BaseModel]] = {ProblemAnswer, *(each.answer for each in endpoints)}
    models |= {each.body for each in endpoints if each.body}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        paths.setdefault(_path_of(each), {})[each.method.lower()] = _operation(each)
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "embedding-worker", "version": __version__},
            "servers": [{"url": prefix or "/"}],
            "paths": paths,
            "components": {
                "schemas": schemas["$defs"],
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.handle.__name__,
        "responses": {"200": _content("Done.", endpoint.answer)}
        | {
            str(status): _content(WORDS[status], ProblemAnswer) for status in _problems_of(endpoint)
        },
    }
    if endpoint.scope:
        described["security"] = [{"bearer": []}]
    if endpoint.body:
        described["requestBody"] = {"required": True} | _content(None, endpoint.body)
    if "{name" in endpoint.path:
        described["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return described


def _problems_of(endpoint: Endpoint) -> list[int]:
    problems = {500, 503, *endpoint.problems}
    if endpoint.scope:
        problems |= {401, 403, 429}
    if endpoint.body:
        problems |= {400, 413}
    return sorted(problems)


def _content(description: str | None, model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    content: dict[str, Any] = {"content": {"application/json": {"schema": schema}}}
    return content if description is None else {"description": description} | content


def _path_of(endpoint: Endpoint) -> str:
    return endpoint.path.replace(":path", "")
