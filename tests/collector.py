"""A collector of OpenTelemetry: it takes traces by OTLP over HTTP, and decodes what arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.http_server import Answer, ModelServer, Request


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived. Ids are in hex; `events` are names with attributes."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    seconds: float
    resource: dict[str, Any]


class Collector(ModelServer):
    """Takes everything, unless `faults` spoil it."""

    def read(self, content: bytes) -> dict[str, Any]:
        return {"spans": _spans(ExportTraceServiceRequest.FromString(content))}

    def due(self, request: Request) -> Answer:
        return Answer(200, b"")

    def headers(self) -> dict[str, str]:
        return {"content-type": "application/x-protobuf"}

    @property
    def spans(self) -> list[Span]:
        """All that arrived."""
        return [span for request in self.requests for span in request.body["spans"]]


def _spans(request: Any) -> list[Span]:
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _values(span.attributes),
            [(event.name, _values(event.attributes)) for event in span.events],
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            _values(of_resource.resource.attributes),
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in attributes
    }
