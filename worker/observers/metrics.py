"""Metrics for Prometheus. A scrape reads the latest state of the run, without a query.

The same server answers the probe of a container."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import accumulate
from threading import Thread
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, MetricsHandler
from prometheus_client import Histogram as Distribution
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

import worker
from worker.engine.histogram import BUCKETS, Histogram
from worker.engine.progress import RunStats
from worker.engine.throttling import ThrottleLevel
from worker.errors import SettingsError
from worker.host import resident_mb
from worker.observers.health import Health
from worker.observers.http_server import BoundedServer
from worker.queue import WorkerState

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Bounds for the time of a batch: from that of a local model to many tries of one request."""

HEALTH = "/healthz"
"""The path of the probe. Every other one has the metrics."""

OUTCOMES = ("completed", "unchanged", "skipped", "dropped", "failed", "stale", "released")
STATES = get_args(WorkerState)
THROTTLE_LEVELS = get_args(ThrottleLevel)


class Metrics:
    """A Progress that counts for Prometheus in `registry`, for one process.

    The counters continue from one run to the next.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stats: RunStats | None = None
        self._counted: dict[Counter, float] = {}
        self._make_counters()
        self._make_gauges()
        self._events: dict[str, Callable[[dict[str, Any]], None]] = {
            "worker_started": self._started,
            "batch_done": lambda of: self._batches.labels(of["model"]).observe(of["seconds"]),
            "minute_passed": self._minute_passed,
            "state_changed": lambda of: _turn(self._state, of["state"], STATES),
            "throttle_changed": lambda of: _turn(
                self._throttle, of["throttle_level"], THROTTLE_LEVELS
            ),
            "database_lost": self._lost,
            "database_back": self._back,
            "provider_stopped": lambda of: self._providers.labels(of["provider"]).set(0),
            "provider_back": lambda of: self._providers.labels(of["provider"]).set(1),
            "backups_seen": self._backups_seen,
            "batches_seen": self._batches_seen,
            "batch_collected": self._batch_collected,
        }

    def _make_counters(self) -> None:
        self._jobs = self._counter("jobs", "Claimed jobs, by outcome", "outcome")
        for outcome in OUTCOMES:
            self._jobs.labels(outcome)
        self._cached = self._counter("cached_texts", "Texts whose vector was in the cache")
        self._passages = self._counter("passages", "Passages of documents, by outcome", "outcome")
        self._requests = self._counter("requests", "Requests to a model", "model")
        self._tokens = self._counter("tokens", "Tokens that a model has read", "model")
        self._cost = self._counter("cost_usd", "Cost in US dollars, if known", "model")
        self._outages = self._counter("database_outages", "Times the database was lost")
        self._outage = self._counter("database_outage_seconds", "Time without the database")
        self._batches = Distribution(
            _full("batch_duration_seconds"),
            "Time until a model has answered for a batch, including retries",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )

        self.registry.register(_Times(lambda: self._stats))

    def _make_gauges(self) -> None:
        self._info = Info(
            "embedding_worker", "Name, host and model of the worker", registry=self.registry
        )
        self._state = self._gauge("state", "1 for the current state, else 0", "state")
        self._throttle = self._gauge(
            "throttle_level", "1 for the current level, else 0", "throttle_level"
        )
        _turn(self._state, "working", STATES)
        _turn(self._throttle, "full", THROTTLE_LEVELS)
        self._pending = self._gauge("pending_jobs", "Pending jobs, NaN if not known")
        self._pending.set(float("nan"))
        self._database = self._gauge("database_up", "1 if the database answers, else 0")
        self._database.set(1)
        self._providers = self._gauge(
            "provider_up", "1 if the provider can be used, else 0", "provider"
        )
        self._backed_up_at = float("nan")  # seconds since 1970
        age = self._gauge("backup_age_seconds", "Age of the last complete backup, NaN if none")
        age.set_function(lambda: time.time() - self._backed_up_at)
        self._failed_backups = self._gauge(
            "failed_backups", "Attempts to make a backup since then that failed"
        )
        self._under_way = self._gauge(
            "batches_under_way", "Batches of the Batch API that have not ended"
        )
        self._waiting = self._gauge("jobs_waiting_for_batch", "Jobs that wait for a batch")
        memory = self._gauge("resident_memory_bytes", "Memory of the process that is in RAM")
        memory.set_function(lambda: resident_mb() * 2**20)

    def update(self, stats: RunStats) -> None:
        if stats is not self._stats:
            self._stats, self._counted = stats, {}
        for outcome in OUTCOMES:
            self._count(self._jobs.labels(outcome), getattr(stats, outcome))
        self._count(self._cached, stats.cached)
        self._count(self._passages.labels("embedded"), stats.passages_embedded)
        self._count(self._passages.labels("reused"), stats.passages_reused)
        for model, spent in stats.models.items():
            self._count(self._requests.labels(model), spent.requests)
            if spent.tokens is not None:
                self._count(self._tokens.labels(model), spent.tokens)
            if spent.cost is not None:
                self._count(self._cost.labels(model), spent.cost)

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if name in self._events:
            self._events[name](fields)

    def _count(self, counter: Counter, now: float) -> None:
        """Add to a counter the increase since the last update."""
        counter.inc(now - self._counted.get(counter, 0.0))
        self._counted[counter] = now

    def _started(self, fields: dict[str, Any]) -> None:
        who = {name: str(fields[name]) for name in ("worker", "host", "pid", "model")}
        self._info.info(who | {"version": worker.__version__})

    def _minute_passed(self, fields: dict[str, Any]) -> None:
        pending = fields["pending"]
        self._pending.set(float("nan") if pending is None else pending)

    def _backups_seen(self, fields: dict[str, Any]) -> None:
        if completed_at := fields["completed_at"]:
            self._backed_up_at = datetime.fromisoformat(completed_at).timestamp()
        self._failed_backups.set(fields["failures"])

    def _batches_seen(self, fields: dict[str, Any]) -> None:
        self._under_way.set(fields["under_way"])
        self._waiting.set(fields["waiting"])

    def _batch_collected(self, fields: dict[str, Any]) -> None:
        """Add what the jobs of a batch have taken, which is in the statistics of no run."""
        for outcome in ("completed", "failed", "stale", "released"):
            self._jobs.labels(outcome).inc(fields[outcome])
        self._tokens.labels(fields["model"]).inc(fields["tokens"] or 0)
        self._cost.labels(fields["model"]).inc(fields["cost"] or 0)

    def _lost(self, _: dict[str, Any]) -> None:
        self._outages.inc()
        self._database.set(0)

    def _back(self, fields: dict[str, Any]) -> None:
        self._outage.inc(fields["seconds"])
        self._database.set(1)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(_full(name), meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(_full(name), meaning, labels, registry=self.registry)


class _Times(Collector):
    """The histograms of the run statistics. Their sums are not known."""

    def __init__(self, stats: Callable[[], RunStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for name, meaning, times in (
            ("request_duration_seconds", "Time of a request to a model", "request_times"),
            ("lag_seconds", "Time from when a job was due until its vector was written", "lags"),
        ):
            family = HistogramMetricFamily(_full(name), meaning, labels=["model"])
            stats = self._stats()
            for model, spent in list(stats.models.items()) if stats else ():
                family.add_metric([model], _cumulated(getattr(spent, times)), sum_value=None)
            yield family


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    """Return how many took at most as many seconds as each bound."""
    so_far = list(accumulate(histogram.counts))
    bounds = [f"{10 ** (place / 4) / 1000:.4g}" for place in range(BUCKETS - 1)]
    return list(zip([*bounds, "+Inf"], map(float, so_far), strict=True))


class _Handler(MetricsHandler):
    """Answers a scrape and the probe."""

    health: Health

    def do_GET(self) -> None:
        if self.path == HEALTH:
            self._answer_probe(self.health.problem)
        else:
            super().do_GET()

    def _answer_probe(self, problem: str | None) -> None:
        self.send_response(503 if problem else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(f"{problem or 'ok'}\n".encode())


@contextmanager
def served(metrics: Metrics, health: Health, port: int, host: str = "127.0.0.1") -> Iterator[None]:
    """Serve metrics at http://`host`:`port`/metrics and the probe at HEALTH, from another thread.

    Raises SettingsError if the address is not available.
    """
    try:
        handler = type("Handler", (_Handler,), {"registry": metrics.registry, "health": health})
        server = BoundedServer(host, port, handler)
    except (OSError, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or "no usable address"
        raise SettingsError(
            f"metrics cannot be served at port {port} of {host}: {reason.lower()}",
            "Give another port with --metrics-port or WORKER_METRICS_PORT (each worker of a machine"
            " needs its own), or another address with WORKER_METRICS_HOST.",
        ) from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _full(name: str) -> str:
    return f"embedding_worker_{name}"


def _turn(switch: Gauge, to: str, positions: Sequence[str]) -> None:
    """Set the series of one position to 1, and those of all others to 0."""
    for position in positions:
        switch.labels(position).set(position == to)
