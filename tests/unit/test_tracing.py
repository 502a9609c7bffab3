"""When traces are sent, and what becomes of them where the collector is away or hangs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from tests.collector import Collector
from tests.conftest import eventually
from tests.http_server import answers, hang
from tests.inbox import Said
from worker.observers import tracing
from worker.observers.composite import CompositeObserver
from worker.observers.tracing import opened_tracer, traced

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SOMEWHERE = "http://127.0.0.1:1"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names. Spans are sent one by one, and at once."""
    with Collector() as collector:
        monkeypatch.setenv(ENDPOINT, collector.root)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
        yield collector


def set_variables(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("given", "are_sent"),
    [
        ({}, False),
        ({ENDPOINT: SOMEWHERE}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{SOMEWHERE}/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({ENDPOINT: SOMEWHERE, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: SOMEWHERE, "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({ENDPOINT: " "}, False),
    ],
)
def test_the_variables_of_opentelemetry_switch_them_on(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], are_sent: bool
) -> None:
    set_variables(monkeypatch, given)
    said = Said()
    with opened_tracer(said.event) as tracer:
        assert (tracer is not None) == are_sent
    assert said.events == []


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is zipkin"),
        (
            {ENDPOINT: SOMEWHERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "the protocol grpc is not supported",
        ),
        (
            {ENDPOINT: SOMEWHERE, "OTEL_BSP_MAX_QUEUE_SIZE": "0"},
            "OpenTelemetry cannot be set up: ValueError",
        ),
    ],
)
def test_what_cannot_be_sent_is_said_with_its_cause_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], cause: str
) -> None:
    set_variables(monkeypatch, given)
    said = Said()
    with opened_tracer(said.event) as tracer:
        assert tracer is None
    [(name, fields)] = said.events
    assert (name, fields["cause"]) == ("traces_off", cause)
    assert fields["hint"]


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, SOMEWHERE)
    monkeypatch.delitem(sys.modules, "worker.observers.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    said = Said()
    with opened_tracer(said.event) as tracer:
        assert tracer is None
    cause = "the packages of OpenTelemetry are not installed"
    hint = "pip install 'embedding-worker[otel]'"
    assert said.events == [("traces_off", {"cause": cause, "hint": hint})]


def test_spans_reach_the_collector_with_the_name_of_the_service(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    for given in (None, "docs-worker"):
        if given:
            monkeypatch.setenv("OTEL_SERVICE_NAME", given)
        with opened_tracer(Said().event) as tracer:
            assert tracer
            tracer.start_span("one").end()
        span = collector.spans[-1]
        assert span.resource["service.name"] == (given or "embedding-worker")
        assert span.resource["service.version"]
    assert [request.path for request in collector.requests] == ["/v1/traces"] * 2


def test_the_end_of_a_run_sends_its_last_spans(collector: Collector) -> None:
    observers = CompositeObserver()
    with traced(observers, Said().event):
        observers.event(
            "jobs_claimed", table="docs", column="c", model="a:b", jobs=1, settled=0, seconds=0.1
        )
    assert [span.name for span in collector.spans] == ["claim docs", "run"]


def test_a_collector_that_is_away_is_said_once_and_so_is_its_return(
    collector: Collector,
) -> None:
    collector.faults.extend([answers(503, **{"retry-after": "99"}), answers(404)])
    said = Said()
    with opened_tracer(said.event) as tracer:
        assert tracer
        for count in (1, 2, 3):
            tracer.start_span("one").end()
            eventually(lambda count=count: len(collector.requests) >= count, 20)  # type: ignore[misc]
    assert said.events == [
        ("traces_lost", {"cause": "the collector answers status 503"}),
        ("traces_back", {}),
    ]


def test_nothing_waits_for_a_collector_that_hangs(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setattr(tracing, "END_WITHIN", 0.05)
    collector.faults.append(hang)
    with opened_tracer(Said().event) as tracer:
        assert tracer
        tracer.start_span("first").end()
        eventually(lambda: len(collector.requests) == 1, 20)
        for _ in range(1000):
            tracer.start_span("lost").end()
    assert len(collector.requests) == 1, "it still waits for its answer"
    [ending] = [each for each in threading.enumerate() if each.name == "end-of-traces"]
    collector.closing.set()
    ending.join()
    assert len(collector.spans) < 20
