"""The spans that the events of a run become."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from worker.engine.progress import RunStats
from worker.observers import traces
from worker.observers.traces import Traces

COLUMN = {"table": "docs", "column": "embedding", "model": "mistral:mistral-embed"}


class Observed:
    """Traces, and the spans that have ended."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.traces = Traces(provider.get_tracer("test"))

    def claim(self, jobs: int = 3) -> None:
        self.traces.event("jobs_claimed", **COLUMN, jobs=jobs, settled=1, seconds=0.5)

    def request(self, **fields: Any) -> None:
        given: dict[str, Any] = {
            "operation": "embeddings",
            "texts": 3,
            "began": time.time() - 0.2,
            "seconds": 0.2,
            "failures": [],
            "tokens": 12,
            "written": None,
            "error_class": None,
        }
        self.traces.event("request_done", **(COLUMN | given | fields))

    def write(self) -> None:
        self.traces.event("jobs_written", **COLUMN, jobs=3, completed=2, seconds=0.1)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._memory.get_finished_spans()}

    @property
    def traces_of_runs(self) -> list[int]:
        found = self._memory.get_finished_spans()
        return [context_of(span).trace_id for span in found if span.name == "run"]


def time_of(nanoseconds: int | None) -> int:
    assert nanoseconds is not None
    return nanoseconds


def context_of(span: ReadableSpan) -> Any:
    assert span.context
    return span.context


@pytest.fixture
def observed() -> Observed:
    return Observed()


def test_a_run_has_a_span_for_each_claim_request_and_write(observed: Observed) -> None:
    stats = RunStats()
    observed.traces.update(stats)
    observed.claim()
    observed.request()
    observed.write()
    stats.completed, stats.failed = 2, 1
    observed.traces.close()
    spans = observed.spans
    run = spans.pop("run")
    assert {name: span.attributes for name, span in spans.items()} == {
        "claim docs": {
            "db.system.name": "postgresql",
            "db.operation.name": "claim",
            "db.collection.name": "docs",
            "embedding_worker.column": "embedding",
            "embedding_worker.jobs": 3,
            "embedding_worker.settled": 1,
        },
        "embeddings mistral-embed": {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "mistral_ai",
            "gen_ai.request.model": "mistral-embed",
            "gen_ai.usage.input_tokens": 12,
            "db.collection.name": "docs",
            "embedding_worker.column": "embedding",
            "embedding_worker.texts": 3,
        },
        "write docs": {
            "db.system.name": "postgresql",
            "db.operation.name": "write",
            "db.collection.name": "docs",
            "embedding_worker.column": "embedding",
            "embedding_worker.jobs": 3,
            "embedding_worker.completed": 2,
        },
    }
    assert run.attributes is not None
    assert run.attributes["embedding_worker.completed"] == 2
    assert run.attributes["embedding_worker.failed"] == 1
    for span in spans.values():
        assert span.parent == run.context
        assert span.kind is SpanKind.CLIENT
        assert time_of(span.end_time) <= time_of(run.end_time)
        assert span.status.status_code is StatusCode.UNSET


def test_the_retries_of_a_request_are_its_events(observed: Observed) -> None:
    now = time.time()
    failures = [(now - 2, "rate_limited"), (now - 1, "overloaded")]
    observed.request(began=now - 3, seconds=3.0, failures=failures)
    span = observed.spans["embeddings mistral-embed"]
    assert [
        (event.name, event.timestamp // 10**9, dict(event.attributes or {}))
        for event in span.events
    ] == [("retry", int(at), {"error.type": error_class}) for at, error_class in failures]
    assert time_of(span.end_time) - time_of(span.start_time) == pytest.approx(3e9)
    assert span.status.status_code is StatusCode.UNSET


def test_a_request_that_fails_has_the_class_of_its_error(observed: Observed) -> None:
    failures = [(time.time(), "overloaded"), (time.time(), "timed_out")]
    observed.request(failures=failures, error_class="timed_out", tokens=None)
    span = observed.spans["embeddings mistral-embed"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "timed_out"
    assert "gen_ai.usage.input_tokens" not in span.attributes
    assert [dict(event.attributes or {}) for event in span.events] == [{"error.type": "overloaded"}]


def test_what_a_chat_model_writes_is_a_chat(observed: Observed) -> None:
    observed.request(operation="chat", model="openai:gpt-4o-mini", written=40)
    attributes = observed.spans["chat gpt-4o-mini"].attributes or {}
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.usage.output_tokens"] == 40


def test_a_pause_ends_a_run_and_the_next_work_begins_another(observed: Observed) -> None:
    observed.traces.event("state_changed", state="working", cause="there is something to do")
    observed.claim()
    observed.traces.event("state_changed", state="waiting", cause="nothing is due")
    assert len(observed.traces_of_runs) == 1
    observed.claim()
    observed.traces.close()
    assert len(set(observed.traces_of_runs)) == 2


def test_a_run_without_a_pause_ends_after_a_while(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed.claim()
    observed.traces.pulse()
    assert observed.traces_of_runs == []
    monkeypatch.setattr(traces, "LONGEST_RUN", 0.0)
    observed.traces.pulse()
    [first] = observed.traces_of_runs
    observed.claim()
    observed.request(began=time.time() - 10, seconds=10.0)
    assert context_of(observed.spans["claim docs"]).trace_id != first
    late = observed.spans["embeddings mistral-embed"]
    assert context_of(late).trace_id == first, "it began in the run before"


def test_warnings_are_events_of_the_run_without_their_causes(observed: Observed) -> None:
    observed.claim()
    observed.traces.event("provider_stopped", provider="openai", cause="key sk-1", hint="")
    observed.traces.event("batch_done", **COLUMN)
    observed.traces.close()
    events = observed.spans["run"].events
    assert [(event.name, dict(event.attributes or {})) for event in events] == [
        ("provider_stopped", {})
    ]
