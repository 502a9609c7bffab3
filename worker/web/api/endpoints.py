"""What an endpoint is, and what its handler gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from worker.queue import KeyScope
from worker.web.api.columns import Columns
from worker.web.api.permits import Permit, Permits
from worker.web.services import Services

MOST_AT_ONCE = 64  # requests that are answered
MOST_PROBLEMS = 3  # of a body, in one answer
LONGEST_PROBLEM = 300  # characters


@dataclass(frozen=True, slots=True)
class ApiServices:
    """What the handlers of the API share."""

    services: Services
    permits: Permits
    columns: Columns
    threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MOST_AT_ONCE))
    """Those of requests that may wait for a model: the dashboard does not wait for them."""

    @classmethod
    def of(cls, services: Services) -> ApiServices:
        """What they share, of what all handlers share."""
        permits = Permits(services.access, services.queues, services.callers)
        return cls(services, permits, Columns(services.settings, services.queues))


@dataclass(frozen=True, slots=True)
class Call:
    """A request: what the caller may do (None: the endpoint needs no token), and its body. `path`
    has the variable parts of the path."""

    shared: ApiServices
    permit: Permit | None
    body: Any
    path: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method of a path. `scope` is what a token needs; None: everybody may call it. `problems`:
    the statuses of its refusals, besides those that every endpoint has. `waits`: it may wait, so it
    needs a thread."""

    method: str
    path: str
    summary: str
    scope: KeyScope | None
    body: type[BaseModel] | None
    answer: type[BaseModel]
    handle: Callable[[Call], BaseModel]
    problems: tuple[int, ...] = ()
    waits: bool = True

    async def respond(self, shared: ApiServices, request: Request) -> Response:
        """Answer a request. Nothing of it is read before it has the right."""
        run = partial(to_thread.run_sync, limiter=shared.threads if self.scope else None)
        permit = await run(shared.permits.require, request, self.scope) if self.scope else None
        content = await request.body() if self.body else b""
        if self.waits:
            answer = await run(self._answer, shared, permit, request, content)
        else:
            answer = self._answer(shared, permit, request, content)
        return Response(answer, media_type="application/json")

    def _answer(
        self, shared: ApiServices, permit: Permit | None, request: Request, content: bytes
    ) -> str:
        body = parsed(self.body, content) if self.body else None
        return self.handle(Call(shared, permit, body, request.path_params)).model_dump_json()


def parsed(model: type[BaseModel], content: bytes) -> BaseModel:
    """Parse a body. Raises HTTPException, whose cause repeats nothing of the body."""
    try:
        return model.model_validate_json(content)
    except ValidationError as problem:
        errors = problem.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(_told(error) for error in errors[:MOST_PROBLEMS])
        raise HTTPException(400, told[:LONGEST_PROBLEM]) from None


def _told(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {said}" if place else said
