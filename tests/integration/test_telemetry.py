"""What a whole run tells its log and its metrics."""

from __future__ import annotations

import json
from collections import Counter
from io import StringIO

import pytest

from tests.conftest import Database
from tests.integration.jobs import insert
from tests.integration.runs import MODEL, Runs
from worker.engine.events import EVENTS
from worker.observers.composite import CompositeObserver
from worker.observers.logs import Log
from worker.observers.metrics import Metrics


@pytest.fixture
def lines() -> StringIO:
    return StringIO()


def test_a_run_logs_its_batches_at_debug_alone_and_counts_what_it_did(
    runs: Runs, docs: Database, lines: StringIO
) -> None:
    insert(docs, 100)
    docs.execute("insert into docs values (101, ' ')")
    metrics = Metrics()
    observer = CompositeObserver(Log(lines, "json", "debug"), metrics)
    stats = runs.new(batch_size=10, progress=observer).drain()

    documents = [json.loads(line) for line in lines.getvalue().splitlines()]
    batches = [document for document in documents if document["event"] == "batch_done"]
    assert sum(batch["jobs"] for batch in batches) == stats.completed == 100
    assert sum(batch["tokens"] for batch in batches) == stats.tokens
    assert {document["level"] for document in batches} == {"debug"}
    at_info = Counter(d["event"] for d in documents if EVENTS[d["event"]][0] != "debug")
    assert all(count < len(batches) / 2 for count in at_info.values()), at_info

    value = metrics.registry.get_sample_value
    jobs = "embedding_worker_jobs_total"
    assert value(jobs, {"outcome": "completed"}) == 100
    assert value(jobs, {"outcome": "skipped"}) == 1
    assert value("embedding_worker_tokens_total", {"model": MODEL}) == stats.tokens
    assert value("embedding_worker_cost_usd_total", {"model": MODEL}) == pytest.approx(stats.cost)
    duration = "embedding_worker_batch_duration_seconds_count"
    assert value(duration, {"model": MODEL}) == len(batches)
