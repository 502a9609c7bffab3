"""Traces for OpenTelemetry: a span for each claim, request and write, below that of their run.

Names and attributes are those of the semantic conventions for databases and generative AI. What
these do not name begins with `embedding_worker.`. No attribute has a text, a record id or a cause.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from worker.engine.events import EVENTS
from worker.engine.progress import RunStats

LONGEST_RUN = 60.0  # seconds; a worker that is never idle would have one trace without an end
PROVIDERS: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
}
"""The names of providers in the conventions, where they are not ours."""

Attributes = dict[str, Any]


class Traces:
    """A Progress that makes spans. Call `close` at the end.

    A span of a run covers work without a pause, LONGEST_RUN at most, and ends with the last span in
    it. Warnings are its events.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._run: Span | None = None
        self._before: Span | None = None
        """The run before, for a request that began in it."""
        self._began = self._ended = 0  # of the run, in nanoseconds since 1970
        self._stats = RunStats()
        self._counted: Attributes = {}
        self._spans = {
            "jobs_claimed": self._claimed,
            "request_done": self._requested,
            "jobs_written": self._written,
        }

    def update(self, stats: RunStats) -> None:
        self._stats = stats

    def pulse(self) -> None:
        if self._run and time.time_ns() > self._began + _nanoseconds(LONGEST_RUN):
            self.close()

    def event(self, name: str, **fields: object) -> None:
        if name in self._spans:
            self._spans[name](fields)
        elif name == "state_changed" and fields["state"] != "working":
            self.close()
        elif self._run and EVENTS[name][0] == "warning":
            self._run.add_event(name)

    def close(self) -> None:
        """End the span of the run."""
        if self._run:
            now = _counts(self._stats)
            done = {name: now[name] - self._counted.get(name, 0) for name in now}
            self._run.set_attributes(done)
            self._run.end(self._ended)
        self._before, self._run = self._run, None

    def _claimed(self, of: Mapping[str, Any]) -> None:
        self._call_of_database("claim", of, ("jobs", "settled"))

    def _written(self, of: Mapping[str, Any]) -> None:
        self._call_of_database("write", of, ("jobs", "completed"))

    def _call_of_database(
        self, operation: str, of: Mapping[str, Any], counts: Sequence[str]
    ) -> None:
        """Make the span of a call that has just ended."""
        attributes: Attributes = {"db.system.name": "postgresql", "db.operation.name": operation}
        attributes |= _column(of) | {_ours(name): of[name] for name in counts}
        name = f"{operation} {of['table']}" if of["table"] else operation
        ended = time.time_ns()
        self._span(name, ended - _nanoseconds(of["seconds"]), attributes).end(ended)

    def _requested(self, of: Mapping[str, Any]) -> None:
        provider, _, model = of["model"].partition(":")
        attributes: Attributes = {
            "gen_ai.operation.name": of["operation"],
            "gen_ai.provider.name": PROVIDERS.get(provider, provider),
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": of["tokens"],
            "gen_ai.usage.output_tokens": of["written"],
            "error.type": of["error_class"],
            _ours("texts"): of["texts"],
        }
        began = _nanoseconds(of["began"])
        span = self._span(f"{of['operation']} {model}", began, attributes | _column(of))
        retried = of["failures"][:-1] if of["error_class"] else of["failures"]
        for failed_at, error_class in retried:
            span.add_event("retry", {"error.type": error_class}, _nanoseconds(failed_at))
        if of["error_class"]:
            span.set_status(Status(StatusCode.ERROR))
        span.end(began + _nanoseconds(of["seconds"]))

    def _span(self, name: str, began: int, attributes: Attributes) -> Span:
        """Begin a span in the run, which begins with it if there is none."""
        if self._run is None:
            self._run, self._began = self._tracer.start_span("run", start_time=began), began
            self._counted = _counts(self._stats)
        run = self._before if self._before and began < self._began else self._run
        self._ended = max(self._ended, time.time_ns())
        return self._tracer.start_span(
            name,
            set_span_in_context(run),
            SpanKind.CLIENT,
            {name: value for name, value in attributes.items() if value is not None},
            start_time=began,
        )


def _column(of: Mapping[str, Any]) -> Attributes:
    return {"db.collection.name": of["table"], _ours("column"): of["column"]}


def _counts(stats: RunStats) -> Attributes:
    return {
        _ours("completed"): stats.completed,
        _ours("failed"): stats.failed,
        _ours("requests"): stats.requests,
        "gen_ai.usage.input_tokens": stats.tokens or 0,
    }


def _ours(name: str) -> str:
    return f"embedding_worker.{name}"


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
