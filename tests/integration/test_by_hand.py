"""The queue is steered with plain SQL: what operators write means what they expect."""

from __future__ import annotations

from datetime import timedelta
from typing import LiteralString

import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, expire_leases, insert
from tests.integration.jobs import complete as complete_jobs
from tests.integration.tables import embed, embed_all, jobs, refusal, vector_of, vectors
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue

SESSION = "5e551011-0000-4000-8000-000000000001"
OTHER = "5e551011-0000-4000-8000-000000000002"
OWNER = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"

# The statements of DESIGN.md, with the id filled in.
COUNT: LiteralString = """
select table_name, status, count(*) from embedding_queue group by table_name, status order by 1, 2;
"""
FAILED: LiteralString = """
select * from embedding_queue where status = 'failed';
"""
RETRY: LiteralString = """
update embedding_queue set status = 'pending', error_message = null where status = 'failed';
"""
ENQUEUE: LiteralString = """
insert into embedding_queue (table_name, record_id, content, embedding_column, user_id)
select 'sessions', id, title, 'title_embedding', user_id from sessions where id = '5e551011-0000-4000-8000-000000000001'
on conflict (table_name, record_id, embedding_column) do update set status = 'pending';
"""  # noqa: E501

JOB: LiteralString = (
    "select status, attempts, lease, lease_expires_at, worker, error_class, error_message,"
    " available_at <= now() from embedding_queue where record_id = '" + SESSION + "'"
)
STARTED_OVER = ("pending", 0, None, None, None, None, None, True)


@pytest.fixture
def sessions(db: Database) -> Database:
    """The watched table `sessions`, with two rows that wait."""
    db.execute("create table sessions (id uuid primary key, title text, user_id uuid)")
    db.execute("select watch_embeddings('sessions', 'title', 'title_embedding', dimensions => 3)")
    db.execute(
        "insert into sessions values (%s, 'one', %s), (%s, 'two', null)", [SESSION, OWNER, OTHER]
    )
    return db


def test_jobs_are_counted_by_table_and_status(sessions: Database, queue: PostgresQueue) -> None:
    embed(queue, claim(queue, 1))
    assert rows(sessions, COUNT) == [("sessions", "completed", 1), ("sessions", "pending", 1)]


def test_failed_jobs_are_listed_and_retried(sessions: Database, queue: PostgresQueue) -> None:
    queue.fail(claim(queue), "rejected", "too long")
    assert len(rows(sessions, FAILED)) == 2
    sessions.execute(RETRY)
    assert rows(sessions, FAILED) == []
    assert rows(sessions, JOB) == [STARTED_OVER]
    assert embed_all(queue) == ["one", "two"]


def test_a_record_is_enqueued_whether_it_has_a_job_or_not(
    sessions: Database, queue: PostgresQueue
) -> None:
    sessions.execute("delete from embedding_queue")
    sessions.execute(ENQUEUE)
    assert rows(sessions, "select record_id, content, user_id::text from embedding_queue") == [
        (SESSION, "one", OWNER)
    ]
    assert embed_all(queue) == ["one"]
    sessions.execute(ENQUEUE)
    assert jobs(sessions) == [(SESSION, "pending")]
    assert embed_all(queue) == []  # neither the text nor the model is another
    assert jobs(sessions) == [(SESSION, "completed")]


@pytest.mark.parametrize(
    "change",
    [
        "update embedding_queue set status = 'pending'",
        "update embedding_queue set status = 'pending', error_message = null",
        "update embedding_queue set status = 'pending', available_at = now()",
        "update embedding_queue set status = 'pending', lease = null, worker = null",
        ENQUEUE,
    ],
)
def test_pending_by_hand_starts_the_job_over(sessions: Database, change: LiteralString) -> None:
    for status in ("pending", "processing", "completed", "failed", "skipped"):
        sessions.execute(
            "update embedding_queue set status = state, attempts = 4, error_message = 'too long',"
            " error_class = 'rejected', worker = 'gone', available_at = later,"
            " lease = case state when 'processing' then gen_random_uuid() end,"
            " lease_expires_at = case state when 'processing' then later end"
            " from (select %s as state, now() + interval '1 hour' as later) as given",
            [status],
        )
        sessions.execute(change)
        assert (status, rows(sessions, JOB)) == (status, [STARTED_OVER])


def test_pending_by_hand_takes_the_fence_from_a_running_worker(
    sessions: Database, queue: PostgresQueue
) -> None:
    taken = claim(queue)
    sessions.execute("update embedding_queue set status = 'pending'")
    assert {refused.reason for refused in embed(queue, taken)} == {"lost"}
    assert rows(sessions, JOB) == [STARTED_OVER]
    assert embed_all(queue) == ["one", "two"]


def test_any_other_status_by_hand_takes_the_fence_as_well(
    sessions: Database, queue: PostgresQueue
) -> None:
    taken = claim(queue)
    sessions.execute("update embedding_queue set status = 'skipped'")
    assert {refused.reason for refused in embed(queue, taken)} == {"lost"}
    assert rows(sessions, "select distinct status, lease, worker from embedding_queue") == [
        ("skipped", None, None)
    ]


def test_pending_by_hand_may_be_for_later(sessions: Database, queue: PostgresQueue) -> None:
    queue.fail(claim(queue), "rejected", "too long")
    sessions.execute(
        "update embedding_queue set status = 'pending', available_at = now() + interval '1 hour'"
    )
    assert embed_all(queue) == []
    assert rows(
        sessions, "select attempts, available_at > now() + interval '59 min' from embedding_queue"
    ) == [(0, True), (0, True)]


def test_a_text_given_by_hand_is_embedded_instead_of_that_of_the_row(
    sessions: Database, queue: PostgresQueue
) -> None:
    sessions.execute(
        "update embedding_queue set content = 'given by hand' where record_id = %s", [SESSION]
    )
    assert embed_all(queue) == ["given by hand", "two"]
    assert vectors(sessions, "select title, title_embedding::text from sessions") == {
        "one": vector_of("given by hand"),
        "two": vector_of("two"),
    }
    assert value(sessions, "select count(content) from embedding_queue") == 0
    sessions.execute("update embedding_queue set status = 'pending'")
    assert embed_all(queue) == ["one"]


def test_an_edit_forgets_the_text_given_by_hand(sessions: Database, queue: PostgresQueue) -> None:
    sessions.execute("update embedding_queue set content = 'given by hand'")
    sessions.execute("update sessions set title = 'edited' where id = %s", [SESSION])
    assert embed_all(queue) == ["edited", "given by hand"]


def test_a_text_given_by_hand_for_a_row_without_one_is_embedded(
    sessions: Database, queue: PostgresQueue
) -> None:
    sessions.execute("update sessions set title = null")
    sessions.execute("update embedding_queue set content = 'given ' || id")
    assert len(embed_all(queue)) == 2
    assert value(sessions, "select count(title_embedding) from sessions") == 2


def test_a_job_for_a_record_that_is_not_there_is_dropped(
    sessions: Database, queue: PostgresQueue
) -> None:
    sessions.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column)"
        " values ('sessions', gen_random_uuid(), 'title_embedding')"
    )
    assert embed_all(queue) == ["one", "two"]
    assert len(jobs(sessions)) == 2


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("sessions", "embedding"),
        ("nowhere", "title_embedding"),
        ("public.sessions", "title_embedding"),
    ],
)
def test_a_job_for_a_column_that_nobody_watches_is_refused(
    sessions: Database, table: LiteralString, column: LiteralString
) -> None:
    before = jobs(sessions)
    assert refusal(
        sessions,
        "insert into embedding_queue (table_name, record_id, embedding_column)"
        f" values ('{table}', '1', '{column}')",
    ) == (
        f"column {column} of table {table} is not watched",
        "Register it first: select watch_embeddings(table, source, embedding_column).",
    )
    assert jobs(sessions) == before


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'done'", "embedding_queue_known_status"),
        ("status = 'failed'", "embedding_queue_failed_says_why"),
        ("status = 'processing'", "embedding_queue_leased_while_processing"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(
    sessions: Database, change: LiteralString, constraint: str
) -> None:
    assert constraint in refusal(sessions, "update embedding_queue set " + change)[0]


def test_a_deleted_job_is_found_again_by_backfill(sessions: Database, queue: PostgresQueue) -> None:
    sessions.execute("delete from embedding_queue")
    assert queue.backfill(queue.target("sessions", "title_embedding"), 10) == 2
    assert embed_all(queue) == ["one", "two"]


# -- values that make no sense, or are at the end of what there is


ODD_VALUES: dict[str, LiteralString] = {
    "never due": "available_at = 'infinity'",
    "due for ever": "available_at = '-infinity'",
    "due after the year 10000": "available_at = '20000-01-01 00:00+00'",
    "due before Christ": "available_at = '0044-03-15 00:00+00 BC'",
    "the highest priority": "priority = 32767",
    "the lowest priority": "priority = -32768",
    "an owner who is not there": "user_id = gen_random_uuid()",
    "an unknown class of error": "error_class = 'of my own', error_message = 'mine'",
    "failed in a class of its own": "status = 'failed', error_class = 'mine', error_message = 'x'",
    "failed without a class": "status = 'failed', error_class = null, error_message = ''",
    "as many attempts as there are": "attempts = 32767",
    "fewer attempts than none": "attempts = -32768",
    "as many silences as there are": "abandoned_claims = 32767",
    "as many embedded as there are": "unwritten = 32767, passed_over = 32767",
    "a lease without end": "status = 'processing', lease = gen_random_uuid(),"
    " lease_expires_at = 'infinity', worker = 'a hand'",
    "a lease that was never begun": "status = 'processing', lease = gen_random_uuid(),"
    " lease_expires_at = '-infinity', worker = null",
    "completed at no time": "status = 'completed', completed_at = null",
    "completed for ever": "status = 'completed', completed_at = 'infinity'",
    "updated never": "updated_at = 'infinity', created_at = '-infinity'",
    "failed before time began": "status = 'failed', error_message = 'x', updated_at = '-infinity'",
    "tokens below zero": "tokens = -5",
    "a cost that is no number": "cost = 'NaN'",
    "a cost without end": "cost = 'infinity'",
    "a model without a name": "model = ''",
    "a hash of nothing": "content_hash = ''",
    "a text of nothing": "content = ''",
    "cut to nothing": "truncated_to = -1",
}


@pytest.mark.parametrize("value_by_hand", ODD_VALUES.values(), ids=list(ODD_VALUES))
def test_an_odd_value_stops_no_command_and_no_other_job(
    docs: Database, queue: AdminQueue, value_by_hand: LiteralString
) -> None:
    insert(docs, 3)
    docs.execute("update embedding_queue set " + value_by_hand + " where record_id = '2'")
    look_at_everything(queue)
    claimed = queue.claim(SCOPE, 10)
    assert {job.record_id for job in claimed.jobs} >= {"1", "3"}
    assert complete_jobs(queue, claimed.jobs) == []
    look_at_everything(queue)
    queue.requeue(status=None)
    docs.execute("update embedding_queue set " + value_by_hand + " where record_id = '2'")
    docs.execute("update docs set body = 'edited'")
    assert len(claim(queue)) == 3, "an edit starts the job over"


@pytest.mark.parametrize("answer", ["fail", "release", "expire"])
def test_counts_at_their_end_stay_there(docs: Database, queue: AdminQueue, answer: str) -> None:
    docs.execute("update embedding_targets set max_attempts = 32767")
    insert(docs, 1)
    docs.execute(
        "update embedding_queue set attempts = 32767, abandoned_claims = 32766, unwritten = 32767,"
        " passed_over = 32767"
    )
    jobs = claim(queue)
    match answer:
        case "fail":
            assert queue.fail(jobs, "changed", "why", timedelta(0)) == 1
        case "release":
            queue.release(jobs, timedelta(seconds=1), embedded=True)
        case _:
            expire_leases(docs)
            assert queue.claim(SCOPE, 1).settled == {"failed": 1}
    look_at_everything(queue)


@pytest.mark.parametrize("priority", [-32768, 32767])
def test_a_target_at_an_end_of_the_priorities_is_backfilled_and_watched_again(
    docs: Database, queue: AdminQueue, priority: int
) -> None:
    insert(docs, 1)
    docs.execute("delete from embedding_queue")
    docs.execute("update embedding_targets set priority = %s", [priority])
    assert queue.backfill(queue.target("docs", "embedding"), 10) == 1
    assert complete_jobs(queue, claim(queue)) == []
    docs.execute(
        "select watch_embeddings('docs', 'body || ''!''', 'embedding', priority => %s::smallint)",
        [priority],
    )
    assert complete_jobs(queue, claim(queue)) == []


def look_at_everything(queue: AdminQueue) -> None:
    """What the commands of an operator ask."""
    queue.status()
    queue.progress()
    queue.overview()
    queue.stats(timedelta(days=1))
    queue.count_due(SCOPE)
    queue.estimate("test:model", None, None, missing=False)
    jobs = queue.list_jobs(["pending", "processing", "failed"], None, None, 100)
    for job in jobs:
        assert job.available_at.astimezone() is not None
    queue.reprocess("nothing like it", None, None, 0, dry_run=True)


def test_pending_by_hand_after_silences_is_claimed_again(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    for _ in range(5):
        claim(queue)
        expire_leases(docs)
    docs.execute("update embedding_queue set status = 'pending'")
    assert len(claim(queue)) == 1


def test_an_edit_after_silences_is_claimed_again(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    for _ in range(5):
        claim(queue)
        expire_leases(docs)
    docs.execute("update docs set body = 'edited'")
    assert len(claim(queue)) == 1
