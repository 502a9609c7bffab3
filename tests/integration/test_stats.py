"""What was done in a span of time: counted, measured, and by the hour."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.acceptance.conftest import fill
from tests.acceptance.conftest import notes as notes
from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, insert, rows_read
from tests.integration.runs import Runs
from tests.integration.tables import acting_as
from worker.queue import AdminQueue, Report, Usage

DAY = timedelta(days=1)
ONE = Usage("a:one", 10, 1, 2, 300, 0.25, request_ms=[0, 0, 1, 1], lag_ms=[8, 2])


def say(queue: AdminQueue, *usage: Usage, worker: str = "test") -> None:
    queue.heartbeat(replace(SCOPE, worker=worker), Report("working", usage=usage))


# -- the histograms


def test_the_counts_of_heartbeats_and_workers_add_up(db: Database, queue: AdminQueue) -> None:
    say(queue, ONE)
    say(queue, ONE)
    say(queue, replace(ONE, requests=3, request_ms=[0, 0, 1, 2, 0, 4], lag_ms=[8, 2]))
    say(queue, replace(ONE, request_ms=[1], lag_ms=[1]), worker="another")
    assert rows(db, "select request_ms, lag_ms from embedding_usage") == [
        ([1, 0, 1, 2, 0, 4], [9, 2])
    ]


def test_a_worker_of_before_says_nothing_of_times(db: Database, queue: AdminQueue) -> None:
    db.execute(
        """select embedding_worker_heartbeat('old', 'here', 1, usage =>"""
        """ '[{"model": "a:one", "completed": 3, "requests": 1}]')"""
    )
    assert rows(db, "select completed, request_ms, lag_ms from embedding_usage") == [(3, [], [])]
    found = queue.stats(DAY)
    assert (found.completed, found.request_p50_ms, found.lag_p95_ms) == (3, None, None)


@pytest.mark.parametrize(
    ("counts", "share", "milliseconds"),
    [
        ("{}", 0.5, None),
        ("{0,0}", 0.5, None),
        ("{4}", 0.5, 0.5),
        ("{4}", 1.0, 1.0),
        ("{0,0,0,0,2}", 0.5, (10**0.75 + 10) / 2),
        ("{1,0,0,0,1}", 0.5, 1.0),
        ("{1,0,0,0,1}", 0.75, (10**0.75 + 10) / 2),
        ("{95,5}", 0.95, 1.0),
    ],
)
def test_a_percentile_lies_within_its_bucket_in_proportion(
    db: Database, counts: str, share: float, milliseconds: float | None
) -> None:
    found = value(db, "select embedding.percentile(%s::bigint[], %s)", counts, share)
    assert found == (None if milliseconds is None else pytest.approx(milliseconds))


# -- the totals


def test_what_was_done_in_the_span_is_summed_up(db: Database, queue: AdminQueue) -> None:
    say(queue, ONE, replace(ONE, model="b:two", tokens=70, cost=None))
    db.execute(
        "insert into embedding_usage (minute, model, completed, tokens, cost)"
        " values (now() - interval '30 hours', 'a:one', 1000, 5, 1)"
    )
    found = queue.stats(DAY)
    assert (found.completed, found.failed, found.requests, found.tokens) == (20, 2, 4, 370)
    assert found.cost is None
    assert found.request_p50_ms == pytest.approx(10**0.5)
    assert found.request_p95_ms == pytest.approx(10**0.5 + 0.9 * (10**0.75 - 10**0.5))
    assert found.lag_p50_ms == pytest.approx(0.625)
    assert [(hour["completed"], hour["failed"]) for hour in found.hours] == [(20, 2)]
    assert 60 <= found.hours[0]["seconds"] <= 3600
    db.execute("delete from embedding_usage where model = 'b:two'")
    found = queue.stats(timedelta(days=2))
    assert (found.completed, found.tokens, found.cost) == (1010, 305, 1.25)
    assert [hour["completed"] for hour in found.hours] == [1000, 10]
    assert found.hours[0]["seconds"] == 3600


@pytest.mark.contract
def test_of_nothing_nothing_is_known(db: Database, queue: AdminQueue) -> None:
    found = queue.stats(DAY)
    assert (found.completed, found.tokens, found.cost) == (0, 0, 0)
    assert (found.request_p50_ms, found.lag_p95_ms, found.hours, found.failures) == (
        None,
        None,
        [],
        [],
    )


def test_what_failed_in_the_span_is_grouped_by_class(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 4)
    for error_class, message in (("rejected", "no"), ("too_long", "long"), ("rejected", "nor")):
        queue.fail(claim(queue, 1), error_class, message)
    queue.fail(claim(queue, 1), "bad_vector", "zeros")
    docs.execute(
        "update embedding_queue set updated_at = now() - interval '2 days'"
        " where error_class = 'bad_vector'"
    )
    found = queue.stats(DAY).failures
    assert [(each["error_class"], each["failed"], each["latest_message"]) for each in found] == [
        ("rejected", 2, "nor"),
        ("too_long", 1, "long"),
    ]


def test_many_failures_are_counted_exactly_if_few_are_on_one_side_of_the_start(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 20_100)

    def failed(error_class: str | None, of_before: int) -> tuple[int, bool]:
        docs.execute(
            "update embedding_queue set status = 'failed', error_class = %s, error_message = 'no',"
            " updated_at = now() - case when record_id::integer <= %s then interval '2 days'"
            "   else interval '0' end",
            [error_class, of_before],
        )
        [found] = queue.stats(DAY).failures
        assert found["error_class"] == error_class
        return found["failed"], found["failed_exact"]

    assert failed("rejected", 0) == (20_100, True)
    assert failed(None, 9_999) == (10_101, True)
    assert failed("rejected", 10_050) == (10_000, False)
    assert failed(None, 20_000) == (100, True)
    assert failed("rejected", 20_099) == (1, True)


def test_stats_read_few_of_many_failures(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 30_000)
    docs.execute(
        "update embedding_queue set status = 'failed', error_message = 'no', error_class = 'bad'"
    )
    docs.execute("vacuum analyze embedding_queue")
    with docs.transaction():
        before = rows_read(docs)
        assert value(docs, "select failures -> 0 ->> 'failed' from embedding_stats()") == "30000"
        assert rows_read(docs) - before < 15_000


def test_a_worker_may_ask(db: Database) -> None:
    with acting_as(db, "embedding_worker"):
        assert value(db, "select completed from embedding_stats('1 hour')") == 0


# -- where the times come from


def test_a_claim_tells_how_long_a_job_was_due_but_not_of_a_backfill(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    docs.execute(
        "update embedding_queue set available_at = now() - interval '1 hour' where record_id = '1'"
    )
    docs.execute("update embedding_queue set priority = -10 where record_id = '2'")
    waited = {job.record_id: job.waited for job in claim(queue) + claim(queue)}
    assert waited["2"] is None
    assert waited["1"] is not None
    assert 3600 <= waited["1"] < 3700


def test_a_run_counts_its_requests_and_the_waits_of_its_jobs(
    notes: Database, queue: AdminQueue, runs: Runs
) -> None:
    fill(notes, 6)
    notes.execute("update embedding_queue set available_at = now() - interval '1 hour'")
    notes.execute("update embedding_queue set priority = -10 where record_id in ('1', '2')")
    stats = runs.drain()
    assert stats.completed == 6
    found = queue.stats(DAY)
    assert found.completed == 6
    assert found.request_p95_ms is not None
    assert found.lag_p50_ms is not None
    assert found.lag_p50_ms > 3_000_000
    counted = rows(
        notes,
        "select (select sum(n) from unnest(request_ms) as n), requests,"
        " (select sum(n) from unnest(lag_ms) as n) from embedding_usage",
    )
    assert [(int(times), requests, int(lags)) for times, requests, lags in counted] == [
        (stats.requests, stats.requests, 4)
    ]
