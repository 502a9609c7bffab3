"""A span for each request to the HTTP API, in the trace of its caller if that sends one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RequestSpans:
    """The ASGI application `app`, which answers at `route`, with a span for each request."""

    tracer: Tracer
    app: App
    route: str

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        attributes = {
            "http.request.method": scope["method"],
            "http.route": self.route,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        name, headers = f"{scope['method']} {self.route}", _headers(scope)
        with self.tracer.start_as_current_span(
            name, extract(headers), SpanKind.SERVER, attributes, record_exception=False
        ) as span:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_attribute("error.type", str(status))
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self.app(scope, receive, noting)


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
