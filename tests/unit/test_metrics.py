"""What Prometheus reads."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.test_documentation import table
from worker.engine.progress import ModelUsage, RunStats
from worker.errors import SettingsError
from worker.observers.health import Health
from worker.observers.http_server import MOST_CONNECTIONS
from worker.observers.metrics import Metrics, served

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
BOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text(encoding="utf-8"))

HEALTHY = Health(300)
STARTED: dict[str, Any] = {"worker": "h:1:abc", "host": "h", "pid": 1, "model": "a:b"}
BATCH: dict[str, Any] = {
    "table": "docs",
    "column": "embedding",
    "model": "a:b",
    "jobs": 3,
    "requests": 1,
    "tokens": 7,
    "seconds": 0.3,
}


def stats(**counts: Any) -> RunStats:
    made = RunStats(**counts)
    made.models["a:b"] = ModelUsage(requests=2, tokens=70, cost=0.5)
    made.models["http:c"] = ModelUsage(requests=1, tokens=None, cost=None)
    return made


@pytest.fixture
def metrics() -> Metrics:
    """Of a worker to which everything happened that metrics tell of."""
    metrics = Metrics()
    metrics.update(stats(completed=3, failed=1, cached=2, passages_reused=7))
    metrics.event("worker_started", **STARTED)
    metrics.event("batch_done", **BATCH)
    metrics.event("minute_passed", completed=3, failed=1, pending=5, rss_mb=90.0)
    metrics.event("state_changed", state="waiting", cause="nothing is due")
    metrics.event("throttle_changed", throttle_level="slow", cause="load")
    metrics.event("database_lost", cause="gone")
    metrics.event("database_back", seconds=1.5)
    metrics.event("provider_stopped", provider="openai", cause="no key", hint=None)
    return metrics


def of(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"embedding_worker_{name}", labels)


def test_the_counts_of_a_run_are_told(metrics: Metrics) -> None:
    assert of(metrics, "jobs_total", outcome="completed") == 3
    assert of(metrics, "jobs_total", outcome="failed") == 1
    assert of(metrics, "jobs_total", outcome="stale") == 0
    assert of(metrics, "cached_texts_total") == 2
    assert of(metrics, "passages_total", outcome="embedded") == 0
    assert of(metrics, "passages_total", outcome="reused") == 7
    assert of(metrics, "requests_total", model="a:b") == 2
    assert of(metrics, "tokens_total", model="a:b") == 70
    assert of(metrics, "cost_usd_total", model="a:b") == 0.5


def test_what_nobody_knows_is_not_told_as_nothing(metrics: Metrics) -> None:
    assert of(metrics, "requests_total", model="http:c") == 1
    assert of(metrics, "tokens_total", model="http:c") is None
    assert of(metrics, "cost_usd_total", model="http:c") is None
    pending = of(Metrics(), "pending_jobs")
    assert pending != pending  # NaN


def test_a_tally_that_grows_is_counted_once_and_a_new_one_is_added() -> None:
    metrics = Metrics()
    growing = stats(completed=3)
    metrics.update(growing)
    growing.completed = 5
    growing.models["a:b"].tokens = 100
    metrics.update(growing)
    metrics.update(growing)
    assert of(metrics, "jobs_total", outcome="completed") == 5
    assert of(metrics, "tokens_total", model="a:b") == 100
    metrics.update(stats(completed=2))
    assert of(metrics, "jobs_total", outcome="completed") == 7
    assert of(metrics, "tokens_total", model="a:b") == 170


def test_how_long_jobs_and_requests_took_is_told_by_bucket() -> None:
    metrics = Metrics()
    of_one = stats()
    for seconds in (0.0005, 0.2, 0.2, 7200.0):
        of_one.models["a:b"].lags.count(seconds)
    of_one.models["a:b"].request_times.count(0.05)
    metrics.update(of_one)
    lags = [
        of(metrics, "lag_seconds_bucket", model="a:b", le=le)
        for le in ("0.001", "0.1778", "0.3162", "+Inf")
    ]
    assert lags == [1, 1, 3, 4]
    assert of(metrics, "request_duration_seconds_bucket", model="a:b", le="0.05623") == 1


def test_of_a_switch_one_position_is_on(metrics: Metrics) -> None:
    for name, on in (("state", "waiting"), ("throttle_level", "slow")):
        positions = {
            sample.labels[name]: sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"embedding_worker_{name}"
        }
        assert len(positions) > 1
        assert [position for position, value in positions.items() if value] == [on]


def test_an_outage_is_told_while_it_lasts_and_counted_when_it_is_over() -> None:
    metrics = Metrics()
    metrics.event("database_lost", cause="gone")
    assert (of(metrics, "database_up"), of(metrics, "database_outages_total")) == (0, 1)
    metrics.event("database_back", seconds=1.5)
    assert (of(metrics, "database_up"), of(metrics, "database_outage_seconds_total")) == (1, 1.5)


def test_a_provider_is_up_again(metrics: Metrics) -> None:
    assert of(metrics, "provider_up", provider="openai") == 0
    metrics.event("provider_back", provider="openai")
    assert of(metrics, "provider_up", provider="openai") == 1


def test_memory_is_that_of_this_process(metrics: Metrics) -> None:
    memory = of(metrics, "resident_memory_bytes")
    assert memory is not None
    assert 10 * 2**20 < memory < 100 * 2**30


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def test_they_are_served_as_prometheus_reads_them(metrics: Metrics, free_port: int) -> None:
    with served(metrics, HEALTHY, free_port):
        url = f"http://127.0.0.1:{free_port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    read = {sample.name: sample.value for family in families for sample in family.samples}
    assert read["embedding_worker_tokens_total"] == 70
    with served(metrics, HEALTHY, free_port):  # and the port is free again
        pass


def test_a_port_in_use_is_an_error_with_cause_and_cure(metrics: Metrics, free_port: int) -> None:
    with served(metrics, HEALTHY, free_port), pytest.raises(SettingsError) as problem:  # noqa: SIM117
        with served(Metrics(), HEALTHY, free_port):
            pass
    assert problem.value.cause == (
        f"metrics cannot be served at port {free_port} of 127.0.0.1: address already in use"
    )
    assert problem.value.hint
    assert problem.value.exit_code == 2


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "a" * 70, "::g", "."])
def test_an_address_that_is_not_of_this_machine_is_an_error_with_cause_and_cure(
    metrics: Metrics, free_port: int, host: str
) -> None:
    with pytest.raises(SettingsError) as problem, served(metrics, HEALTHY, free_port, host):
        pass
    assert f"metrics cannot be served at port {free_port} of {host}: " in problem.value.cause
    assert "WORKER_METRICS_HOST" in str(problem.value.hint)


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=20)


def is_scraped(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return b"embedding_worker_tokens_total" in answer.read()


def test_they_are_served_to_this_machine_alone_unless_it_is_said(
    metrics: Metrics, free_port: int
) -> None:
    with served(metrics, HEALTHY, free_port):
        connected(free_port).close()
        with pytest.raises(ConnectionRefusedError):
            connected(free_port, "127.0.0.2")
    with served(metrics, HEALTHY, free_port, "0.0.0.0"):
        connected(free_port, "127.0.0.2").close()


def test_connections_that_ask_nothing_do_not_stop_a_scrape(
    metrics: Metrics, free_port: int
) -> None:
    with served(metrics, HEALTHY, free_port), ExitStack() as stack:
        idle = [stack.enter_context(connected(free_port)) for _ in range(5 * MOST_CONNECTIONS)]
        assert is_scraped(free_port)
        assert idle[0].recv(1) == b""  # the oldest was closed
        while len(threads_of_connections()) > MOST_CONNECTIONS:  # those that were closed end soon
            threading.Event().wait(0.01)


def threads_of_connections() -> list[str]:
    return [t.name for t in threading.enumerate() if "process_request_thread" in t.name]


@pytest.mark.parametrize("drop", [b"", b"G", b"GET /metrics HTTP/1.1\r\nx: y"])
def test_a_connection_that_never_finishes_its_request_is_closed(
    metrics: Metrics, free_port: int, monkeypatch: pytest.MonkeyPatch, drop: bytes
) -> None:
    monkeypatch.setattr("worker.observers.http_server.LONGEST_CONNECTION", 0.0)
    with served(metrics, HEALTHY, free_port), connected(free_port) as slow:
        slow.sendall(drop)
        assert closed(slow)


def closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it; waits for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_client_that_sends_a_little_now_and_then_is_cut_off(
    metrics: Metrics, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.observers.http_server.LONGEST_CONNECTION", 0.5)
    with served(metrics, HEALTHY, free_port), connected(free_port) as slow:
        with suppress(ConnectionError):
            while True:
                slow.sendall(b"x")
                threading.Event().wait(0.01)
        assert is_scraped(free_port)


def test_a_connection_that_is_cut_while_it_is_answered_says_nothing(
    metrics: Metrics, free_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(metrics, HEALTHY, free_port):
        for _ in range(20):
            gone = connected(free_port)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            gone.close()  # with a reset
        assert is_scraped(free_port)
    assert capfd.readouterr().err == ""


# The documentation, and the dashboard


def samples(registry: CollectorRegistry) -> dict[str, set[str]]:
    """By the name of each sample its labels, without that of a histogram's bounds."""
    return {
        sample.name: {label for label in sample.labels if label != "le"}
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_the_table_of_metrics_is_complete(metrics: Metrics) -> None:
    made = {}
    for family in metrics.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        made[family.name + suffix] = (family.type, labels)
    documented = {
        name: (kind, set(re.findall(r"\w+", labels)))
        for name, kind, _, labels, _ in table(
            OPERATIONS, "metric", "type", "unit", "labels", "meaning"
        )
    }
    assert documented == made


PANELS: list[dict[str, Any]] = [
    panel for panel in BOARD["panels"] for panel in [panel, *panel.get("panels", [])]
]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
CHOICES = [v["query"]["query"] for v in BOARD["templating"]["list"] if v["type"] == "query"]
OF_PROMETHEUS = {"instance", "job"}  # labels that every scrape has


def labels_in(query: str) -> Iterator[str]:
    for group in re.findall(r"\{([^}]*)\}", query):
        yield from re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", group)
    for group in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", query):
        yield from (label.strip() for label in group.split(",") if label.strip())


@pytest.mark.parametrize("query", [*QUERIES, *CHOICES])
def test_a_query_of_the_dashboard_names_what_there_is(query: str, metrics: Metrics) -> None:
    known = samples(metrics.registry)
    named = set(re.findall(r"\b(?:embedding|process|python)_\w+", query))
    assert named
    assert named <= known.keys()
    of_these = set().union(*(known[name] for name in named))
    assert set(labels_in(query)) <= of_these | OF_PROMETHEUS | {"le"}
    assert query.count("(") == query.count(")")


def test_every_metric_is_on_the_dashboard(metrics: Metrics) -> None:
    shown = " ".join(QUERIES)
    for family in metrics.registry.collect():
        assert family.name in shown


def test_the_panels_of_the_dashboard_have_their_own_number_and_place() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in PANELS]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for a, b in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (a, b)


def test_the_dashboard_asks_for_its_source_of_data() -> None:
    [source] = [v for v in BOARD["templating"]["list"] if v["type"] == "datasource"]
    wanted = {"type": "prometheus", "uid": "${" + source["name"] + "}"}
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["datasource"] == wanted
            assert all(target["datasource"] == wanted for target in panel["targets"])
