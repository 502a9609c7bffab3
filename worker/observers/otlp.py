"""The exporter of traces: OTLP over HTTP, from a thread and a queue of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from worker.observers.tracing import Emit


def open_provider(service: str, version: str, emit: Emit) -> TracerProvider:
    """Return what makes and sends spans, as the variables of OpenTelemetry say.

    Raises ValueError if one of them is not valid.
    """
    # without a handler, Python prints what the exporter logs in between our own lines
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    resource = Resource.create({"service.version": version})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):  # it is not set
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(ReportingExporter(emit)))
    return provider


class ReportingExporter(SpanExporter):
    """Sends spans, and reports once that the collector takes none, and once that it does again."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._status: int | None = None
        self._is_lost = False
        session = requests.Session()
        session.hooks["response"].append(self._note)
        self._exporter = OTLPSpanExporter(session=session)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._status = None
        result = self._exporter.export(spans)
        is_lost = result is not SpanExportResult.SUCCESS
        if is_lost and not self._is_lost:
            said = f"status {self._status}" if self._status else "nothing"
            self._emit("traces_lost", cause=f"the collector answers {said}")
        elif self._is_lost and not is_lost:
            self._emit("traces_back")
        self._is_lost = is_lost
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _note(self, response: requests.Response, *_: object, **__: object) -> None:
        self._status = response.status_code
