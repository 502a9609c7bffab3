"""The rate and the remaining time: of all workers together, known from their first report on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import Database
from tests.integration.jobs import SCOPE, insert
from worker.queue import AdminQueue, Report, Usage


def report(queue: AdminQueue, worker: str, **seconds_by_model: float) -> None:
    """A worker that completed 1000 jobs with each model, in so many seconds."""
    usage = [
        Usage(model, completed=1000, failed=0, requests=10, tokens=0, cost=0.0, seconds=seconds)
        for model, seconds in seconds_by_model.items()
    ]
    queue.heartbeat(replace(SCOPE, worker=worker), Report("working", usage=usage))


def test_nothing_is_known_before_anything_was_done(queue: AdminQueue) -> None:
    progress = queue.progress()
    assert (progress.rows_per_second, progress.elapsed_seconds) == (None, None)
    assert progress.eta_seconds == 0


def test_the_running_minute_counts(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 500)
    report(queue, "one", fast=10.0)
    progress = queue.progress()
    assert progress.rows_per_second == 100.0
    assert progress.eta_seconds == pytest.approx(5.0)


@pytest.mark.contract
def test_the_rates_of_workers_add_up(queue: AdminQueue) -> None:
    report(queue, "one", fast=10.0)
    report(queue, "two", fast=10.0)
    assert queue.progress().rows_per_second == 200.0


@pytest.mark.contract
def test_a_worker_that_serves_two_models_has_the_rate_of_both(queue: AdminQueue) -> None:
    report(queue, "one", fast=10.0, slow=20.0)
    report(queue, "two", fast=10.0)
    assert queue.progress().rows_per_second == 2 * 100.0 + 50.0


def test_a_pause_between_two_reports_does_not_lower_the_rate(
    db: Database, queue: AdminQueue
) -> None:
    """Seconds without work are not counted: see Usage.seconds."""
    report(queue, "one", fast=10.0)
    db.execute("update embedding_usage set minute = minute - interval '1 minute'")
    assert queue.progress().rows_per_second == 100.0


def test_the_rate_of_workers_that_ended_is_that_of_one(queue: AdminQueue) -> None:
    report(queue, "one", fast=10.0)
    queue.deregister(replace(SCOPE, worker="one"))
    assert queue.progress().rows_per_second == 100.0


def test_after_three_minutes_without_work_nothing_is_known(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    report(queue, "one", fast=10.0)
    docs.execute("update embedding_usage set minute = minute - interval '4 minutes'")
    progress = queue.progress()
    assert (progress.rows_per_second, progress.eta_seconds) == (None, None)
