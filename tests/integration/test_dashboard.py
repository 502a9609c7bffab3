"""What the dashboard shows and does, over both transports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import worker
from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, insert
from tests.integration.tables import Table, embed
from worker.operations.status import status
from worker.queue import AdminQueue, Report, Usage

LEASE = timedelta(minutes=1)


# -- the overview


def test_with_nothing_watched_the_overview_is_empty(db: Database, queue: AdminQueue) -> None:
    overview = queue.overview()
    assert (overview.columns, overview.workers, overview.failures) == ([], [], [])
    assert (overview.progress.pending, overview.progress.eta_seconds) == (0, 0.0)
    assert (overview.recent.completed, overview.recent.cost, overview.recent.lag_p95_ms) == (
        0,
        0.0,
        None,
    )
    assert (overview.completed_today, overview.cost_today) == (0, 0.0)
    assert abs(overview.at - queue.clock()) < timedelta(minutes=1)


def test_the_overview_has_what_the_views_and_tables_have(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 4)
    embed(queue, claim(queue, 1))
    queue.fail(claim(queue, 1), "rejected", "no")
    queue.heartbeat(SCOPE, Report("working", completed=1))
    queue.report_provider("openai", "no key", "Set it.")
    queue.control("pause", "test")
    queue.begin_check("test", timedelta(days=1), LEASE)
    overview = queue.overview()
    assert overview.columns == queue.status()
    assert overview.progress == queue.progress()
    assert overview.commands == queue.commands()
    assert overview.checks == queue.checks()
    [failure] = overview.failures
    assert (failure.error_class, failure.failed, failure.latest_message) == ("rejected", 1, "no")
    assert failure.latest_at == value(docs, "select latest_at from embedding_failures")
    [stopped] = overview.providers
    assert (stopped.error, stopped.hint) == ("no key", "Set it.")
    assert [known.worker for known in overview.workers] == ["test"]
    assert overview.database.max_connections == value(
        docs, "select current_setting('max_connections')::int"
    )
    assert status(queue).figures()["failed"] == 1


def test_of_backups_the_latest_and_the_last_complete_one_are_shown(
    docs: Database, queue: AdminQueue
) -> None:
    made = ((None, None), ("full", None), (None, "docs"), (None, None), ("gone", None))
    for number, (error, table) in enumerate(made):
        backup = queue.begin_backup(f"shelf {number}", "test", LEASE, None, table)
        assert backup
        queue.end_backup(backup, 1, 2, error)
    assert queue.overview().backups == [queue.backups()[3], queue.backups()[4]]


def test_re_embeddings_that_have_ended_are_left_out(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    docs.execute("select start_reembedding('docs', 'embedding', 'test:new', 3)")
    assert queue.overview().reembeddings == queue.reembeddings()
    docs.execute("select cancel_reembedding('docs', 'embedding')")
    assert queue.overview().reembeddings == []


def test_recent_work_is_that_of_a_quarter_of_an_hour_and_today_begins_at_midnight(
    db: Database, queue: AdminQueue
) -> None:
    used = Usage("a:one", 10, 1, 2, 300, 0.25, request_ms=[0, 0, 4], lag_ms=[8, 2])
    queue.heartbeat(SCOPE, Report("working", usage=[used]))
    db.execute(
        "insert into embedding_usage (minute, model, completed, cost)"
        " values (now() - interval '20 minutes', 'b:two', 5, 0.5),"
        "        (now() - interval '2 days', 'b:two', 7, 0.5)"
    )
    since_midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    earlier = queue.clock() - timedelta(minutes=20) >= since_midnight
    found = queue.overview()
    assert (found.recent.completed, found.recent.failed, found.recent.tokens) == (10, 1, 300)
    assert (found.recent.cost, found.recent.requests) == (0.25, 2)
    assert found.recent.lag_p50_ms == queue.stats(timedelta(minutes=5)).lag_p50_ms
    assert found.completed_today == (15 if earlier else 10)
    assert found.cost_today == (0.75 if earlier else 0.25)
    db.execute("update embedding_usage set cost = null where model = 'a:one'")
    assert (queue.overview().recent.cost, queue.overview().cost_today) == (None, None)


def test_many_failures_and_workers_are_cut(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 60)
    docs.execute(
        "update embedding_queue set status = 'failed', error_message = 'no',"
        " error_class = 'class ' || least(record_id::integer, 55)"
    )
    docs.execute(
        "insert into embedding_workers (worker, host, pid, seen_at)"
        " select 'w' || n, 'h', n, now() - n * interval '1 s' from generate_series(1, 230) n"
    )
    found = queue.overview()
    assert [failure.failed for failure in found.failures] == [6, *[1] * 49]
    assert {known.worker for known in found.workers} == {f"w{number}" for number in range(1, 201)}


def test_a_column_that_cannot_be_read_hides_nothing(docs: Database, queue: AdminQueue) -> None:
    other = Table(docs, name="notes")
    other.create()
    other.watch()
    docs.execute("drop table docs")
    assert [(one.table_name, one.rows) for one in queue.overview().columns] == [
        ("docs", None),
        ("notes", 0),
    ]


# -- the figures of the host


def test_a_heartbeat_reports_the_version_and_the_host_of_a_worker(
    db: Database, queue: AdminQueue
) -> None:
    queue.heartbeat(SCOPE, Report("working"))
    queue.heartbeat(replace(SCOPE, worker="other"), Report("waiting"))
    for known in queue.overview().workers:
        assert known.version == worker.__version__
        assert known.cores
        assert known.rss_mb
        assert known.load is not None
        assert known.cpu_percent is None or 0 <= known.cpu_percent <= 100
    # a worker of before, or in another language
    db.execute("select embedding_worker_heartbeat('test', 'here', 1)")
    assert rows(
        db,
        "select version, cores, load, cpu_percent, memory_limit_mb from embedding_workers"
        " where worker = 'test'",
    ) == [(None,) * 5]
