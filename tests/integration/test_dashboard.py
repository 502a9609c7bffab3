"""What the dashboard shows and does, over both transports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, LiteralString

import pytest

import worker
from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, insert
from tests.integration.tables import Connect, Table, embed, store_passages
from worker.errors import SettingsError
from worker.operations.status import status
from worker.queue import AdminQueue, JobStatus, PassageSummary, Report, Usage, from_web

LEASE = timedelta(minutes=1)


# -- the overview


@pytest.mark.contract
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


@pytest.mark.contract
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


@pytest.mark.contract
def test_re_embeddings_that_have_ended_are_left_out(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    docs.execute("select start_reembedding('docs', 'embedding', 'test:new', 3)")
    assert queue.overview().reembeddings == queue.reembeddings()
    docs.execute("select cancel_reembedding('docs', 'embedding')")
    assert queue.overview().reembeddings == []


@pytest.mark.contract
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


def test_a_table_that_is_locked_as_a_whole_is_not_waited_for(
    docs: Database, queue: AdminQueue, connect: Connect
) -> None:
    insert(docs, 2)
    with connect() as other, other.transaction():
        other.execute("lock table docs")
        [column] = queue.overview().columns
        assert (column.pending, column.rows, column.coverage) == (2, None, None)
    assert queue.overview().columns[0].rows == 2


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


# -- pages of jobs

STATES = ("pending", "processing", "failed", "completed", "skipped")


def pages(queue: AdminQueue, limit: int = 3, **wanted: Any) -> list[int]:
    """The ids of the jobs on all pages, in their order."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        page = queue.page_jobs(limit=limit, cursor=cursor, **wanted)
        assert len(page.jobs) <= limit
        found += [job.id for job in page.jobs]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


@pytest.fixture
def every_state(docs: Database) -> Database:
    """Two columns with jobs in every state, with ties and gaps in all that orders them."""
    docs.execute("select watch_embeddings('docs', 'views', 'other', dimensions => 3)")
    docs.execute("insert into docs select n, 'text ' || n, n from generate_series(1, 60) n")
    docs.execute(
        "update embedding_queue set"
        " priority = id % 3, user_id = md5((id % 4)::text)::uuid,"
        " available_at = now() + id % 5 * interval '1 minute',"
        " error_message = 'why', error_class = case id % 7 when 0 then null when 1 then ''"
        "                                          else 'class ' || id % 3 end,"
        " updated_at = now() - id % 2 * interval '1 minute'"
    )
    docs.execute(
        "update embedding_queue set status = (array['pending', 'processing', 'failed',"
        "                                          'completed', 'skipped'])[1 + id / 2 % 5],"
        " lease = case id / 2 % 5 when 1 then gen_random_uuid() end,"
        " lease_expires_at = case id / 2 % 5 when 1 then now() + id % 3 * interval '1 minute' end"
    )
    return docs


@pytest.mark.parametrize("status", [None, *STATES])
def test_the_pages_of_a_state_have_each_job_once(
    every_state: Database, queue: AdminQueue, status: JobStatus | None
) -> None:
    condition = "true" if status is None else f"status = '{status}'"
    expected = value(every_state, f"select array_agg(id) from embedding_queue where {condition}")
    for limit in (1, 5, 500):
        found = pages(queue, limit, status=status)
        assert sorted(found) == sorted(expected)
        assert found == pages(queue, 500, status=status)


def test_the_jobs_of_a_state_come_in_its_order(every_state: Database, queue: AdminQueue) -> None:
    orders: dict[JobStatus, LiteralString] = {
        "pending": "priority desc, uuid_hash(user_id), available_at, id",
        "processing": "lease_expires_at, id",
        "failed": "error_class, updated_at desc, id desc",
    }
    for state, order in orders.items():
        found = rows(
            every_state,
            "select id from embedding_queue where status = %s order by target_id, " + order,
            state,
        )
        assert pages(queue, status=state) == [id for (id,) in found]
    assert pages(queue) == sorted(pages(queue), reverse=True)
    assert pages(queue, status="skipped") == sorted(pages(queue, status="skipped"), reverse=True)


@pytest.mark.contract
def test_each_argument_narrows_the_jobs_down(every_state: Database, queue: AdminQueue) -> None:
    conditions: list[tuple[dict[str, Any], LiteralString]] = [
        ({"column": "other"}, "embedding_column = 'other'"),
        (
            {"table": "docs", "status": "failed", "column": "other"},
            "embedding_column = 'other' and status = 'failed'",
        ),
        ({"table": "notes"}, "false"),
        ({"error_class": "class 2"}, "error_class = 'class 2'"),
        (
            {"error_class": "class 2", "status": "failed"},
            "error_class = 'class 2' and status = 'failed'",
        ),
        (
            {"error_class": "class 2", "status": "pending"},
            "error_class = 'class 2' and status = 'pending'",
        ),
        ({"error_class": "", "status": "failed"}, "error_class = '' and status = 'failed'"),
        ({"record": "7"}, "record_id = '7'"),
        ({"record": "7", "column": "other"}, "record_id = '7' and embedding_column = 'other'"),
        ({"record": "none"}, "false"),
    ]
    for wanted, condition in conditions:
        expected = rows(every_state, f"select id from embedding_queue where {condition}")
        assert sorted(pages(queue, **wanted)) == sorted(id for (id,) in expected), wanted


def test_a_page_looks_at_a_bounded_number_of_jobs(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 11_000)
    docs.execute(
        "update embedding_queue set status = 'completed' where record_id::integer in (1, 10900)"
    )
    first = queue.page_jobs(status="completed")
    assert [job.record_id for job in first.jobs] == ["10900"]
    second = queue.page_jobs(status="completed", cursor=first.next_cursor)
    assert (second.jobs, second.next_cursor is None) == ([], False)
    third = queue.page_jobs(status="completed", cursor=second.next_cursor)
    assert ([job.record_id for job in third.jobs], third.next_cursor) == (["1"], None)


def test_a_job_that_changes_between_two_pages_hides_no_other(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 6)
    first = queue.page_jobs(status="pending", limit=2)
    embed(queue, claim(queue, 2))
    docs.execute("delete from docs where id = 2")
    second = queue.page_jobs(status="pending", limit=500, cursor=first.next_cursor)
    assert [job.record_id for job in second.jobs] == ["3", "4", "5", "6"]


@pytest.mark.contract
@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "7",
        "{}",
        "null",
        "[]",
        '{"id": 7}',
        "x" * 100,
        "[" * 20_000,
        '{"id": "\\u0000"}',
        '{"id": 1, "owner": 0, "priority": 99999, "target_id": 1}',
    ],
)
def test_what_is_no_cursor_is_refused(docs: Database, queue: AdminQueue, cursor: str) -> None:
    with pytest.raises(SettingsError, match="this is no cursor of page_embeddings") as refused:
        queue.page_jobs(cursor=cursor)
    assert refused.value.hint == "Begin with the first page, without a cursor."


# -- a job


@pytest.mark.contract
def test_a_job_is_shown_with_its_target_and_without_its_text(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    [claimed] = claim(queue, 1)
    docs.execute("update embedding_queue set content = 'secret' where record_id = '2'")
    queue.control("sleep")
    job = queue.job(claimed.id)
    assert job
    assert (job.id, job.record_id, job.status, job.worker) == (
        claimed.id,
        "1",
        "processing",
        "test",
    )
    assert job.lease_expires_at == value(
        docs, "select lease_expires_at from embedding_queue where id = %s", claimed.id
    )
    assert (job.dimensions, job.enabled, job.in_chunks, job.by_hand) == (3, True, False, False)
    assert job.desired_state == "sleep"
    embed(queue, [claimed])
    done = queue.job(claimed.id)
    assert done
    assert (done.status, done.model, done.target_model) == ("completed", "test:model", "test:model")
    [by_hand] = queue.page_jobs(record="2").jobs
    other = queue.job(by_hand.id)
    assert other
    assert other.by_hand
    assert "secret" not in str(value(docs, "select embedding_job(%s)", by_hand.id))
    assert queue.job(10**12) is None


@pytest.mark.contract
def test_a_text_is_revealed_once_it_is_recorded(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    docs.execute("update embedding_queue set content = 'by hand' where record_id = '2'")
    first, second = sorted(job.id for job in queue.page_jobs().jobs)
    assert queue.reveal_text(first, source=from_web("10.0.0.7")) == "text 1"
    [entry] = queue.audit(limit=1)
    assert (entry.event, entry.source, entry.address) == ("text_revealed", "web", "10.0.0.7")
    assert (entry.table_name, entry.figures) == ("docs", {"record_id": "1"})
    assert queue.reveal_text(second) == "by hand"
    entries = value(docs, "select count(*) from embedding_audit")
    assert queue.reveal_text(10**12) is None
    docs.execute("update docs set body = repeat('x', 30000) where id = 1")
    assert queue.reveal_text(first) == "x" * 20_000
    docs.execute("update embedding_targets set enabled = false")
    assert queue.reveal_text(first) is None
    assert value(docs, "select count(*) from embedding_audit") == entries + 1


# -- goals


def goal(queue: AdminQueue) -> float | None:
    return queue.status()[0].coverage_goal


@pytest.mark.contract
def test_a_goal_is_kept_until_it_is_removed(docs: Database, queue: AdminQueue) -> None:
    assert goal(queue) is None
    queue.set_goal(queue.target("docs", "embedding"), 99.9, source="web")
    assert goal(queue) == queue.overview().columns[0].coverage_goal == 99.9
    [entry] = queue.audit(limit=1)
    assert (entry.event, entry.source, entry.figures) == ("goal_set", "web", {"percent": 99.9})
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    assert goal(queue) == 99.9
    queue.set_goal(queue.target("docs", "embedding"), None)
    assert goal(queue) is None


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan"), float("inf")])
@pytest.mark.over_a_connection
def test_a_goal_is_a_percentage(docs: Database, queue: AdminQueue, percent: float) -> None:
    with pytest.raises(SettingsError, match="the goal of a column cannot be"):
        queue.set_goal(queue.target("docs", "embedding"), percent)
    assert goal(queue) is None
    assert docs.execute("select from embedding_audit where event = 'goal_set'").rowcount == 0


@pytest.mark.contract
def test_a_goal_of_no_column_is_refused(docs: Database, queue: AdminQueue) -> None:
    target = replace(queue.target("docs", "embedding"), embedding_column="other")
    with pytest.raises(SettingsError, match="column other of table docs is not watched"):
        queue.set_goal(target, 50)


def test_a_goal_goes_with_its_column_to_another_model(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    queue.set_goal(queue.target("docs", "embedding"), 80)
    docs.execute("select start_reembedding('docs', 'embedding', 'test:new', 3)")
    goals: LiteralString = (
        "select role, coverage_goal from embedding_targets where coverage_goal is not null"
    )
    assert rows(docs, goals) == [("serving", 80.0)]
    docs.execute(
        "select advance_reembedding('docs', 'embedding', 'filling', 'indexing');"
        """select swap_reembedding('docs', 'embedding', figures => '{"verified": false}')"""
    )
    assert rows(docs, goals) == [("serving", 80.0)]
    docs.execute("select set_embedding_goal('docs', 'embedding', 70)")
    docs.execute("select rollback_reembedding('docs', 'embedding')")
    assert rows(docs, goals) == [("serving", 70.0)]


# -- passages


@pytest.fixture
def passages(manuals: Database) -> Database:
    """A text of three passages, of which the first and the last are the same, and one of one."""
    store_passages(manuals, 1, "one", "two", "one")
    store_passages(manuals, 2, "one")
    return manuals


@pytest.mark.contract
def test_the_passages_of_a_text_come_in_their_order_page_by_page(
    passages: Database, queue: AdminQueue
) -> None:
    target = queue.target("docs", "embedding")
    first = queue.passages(target, "1", limit=2)
    assert [passage.position for passage in first] == [0, 1]
    [last] = queue.passages(target, "1", after=1)
    assert last == PassageSummary(2, 0, 1, None, None, sha256(b"one").digest(), 1, True)
    assert last.hash == first[0].hash != first[1].hash
    passages.execute("delete from docs_chunks where content = 'two'")
    assert [passage.has_vector for passage in queue.passages(target, "1")] == [True, False, True]
    assert queue.passages(target, "3") == queue.passages(target, "no number") == []


@pytest.mark.contract
def test_the_words_of_a_passage_are_revealed_once_that_is_recorded(
    passages: Database, queue: AdminQueue
) -> None:
    target = queue.target("docs", "embedding")
    assert queue.reveal_passage(target, "1", 1, source=from_web("::1")) == "two"
    [entry] = queue.audit(limit=1)
    assert (entry.event, entry.address) == ("text_revealed", "::1")
    assert entry.figures == {"record_id": "1", "position": 1}
    entries = len(queue.audit())
    for record, position in (("1", 3), ("1", -1), ("9", 0), ("no number", 0)):
        assert queue.reveal_passage(target, record, position) is None
    assert len(queue.audit()) == entries
    passages.execute("update docs_chunks set content = repeat('x', 30000) where content = 'two'")
    assert queue.reveal_passage(target, "1", 1) == "x" * 20_000


@pytest.mark.contract
def test_a_text_that_is_embedded_as_a_whole_has_no_passages(
    docs: Database, queue: AdminQueue
) -> None:
    with pytest.raises(SettingsError, match="embedded as a whole"):
        queue.passages(queue.target("docs", "embedding"), "1")
    with pytest.raises(SettingsError, match="embedded as a whole"):
        queue.reveal_passage(queue.target("docs", "embedding"), "1", 0)
