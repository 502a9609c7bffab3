"""Jobs are made pending again in batches: each once, whatever happens meanwhile."""

from __future__ import annotations

from threading import Event
from typing import LiteralString

import pytest

from tests.conftest import REPOSITORY, Database, rows, value
from tests.integration.jobs import claim, expire_leases, insert, rows_read
from tests.integration.tables import Connect, Table, embed, embed_all
from worker.operations.jobs import requeue
from worker.queue import AdminQueue
from worker.queue.functions import STATEMENT_TIMEOUTS


def fail_all(docs: Database, error_class: str = "rejected") -> None:
    docs.execute(
        "update embedding_queue set status = 'failed', error_class = %s, error_message = 'no',"
        " updated_at = clock_timestamp()",
        [error_class],
    )


@pytest.fixture
def failed(docs: Database) -> Database:
    """Five documents whose jobs failed."""
    insert(docs, 5)
    fail_all(docs)
    return docs


@pytest.fixture
def thousands(docs: Database) -> Database:
    """Documents whose jobs failed, for more than two batches of a command."""
    insert(docs, 4100)
    fail_all(docs)
    return docs


def pending(db: Database) -> int:
    found: int = value(
        db,
        "select count(*) from embedding_queue where status = 'pending' and attempts = 0"
        " and error_class is null and content_hash is null",
    )
    return found


def test_failed_jobs_are_requeued_a_batch_at_a_time(failed: Database, queue: AdminQueue) -> None:
    found = [queue.requeue(status="failed", batch=2) for _ in range(3)]
    assert [batch.requeued for batch in found] == [2, 2, 1]
    assert [batch.looked_to is None for batch in found] == [False, False, True]
    assert pending(failed) == 5


def test_jobs_of_every_status_are_requeued_once_each(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 5)
    embed(queue, claim(queue, 3))
    claim(queue, 1)
    requeued: list[int] = []
    after: int | None = 0
    while after is not None:
        batch = queue.requeue(status=None, batch=2, after=after)
        requeued.append(batch.requeued)
        after = batch.looked_to
    assert requeued == [2, 2, 1, 0]
    assert pending(docs) == 5


def test_a_selection_is_requeued_in_batches_whatever_else_there_is(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 7)
    embed(queue, claim(queue, 7))
    ids = [job.id for job in queue.page_jobs().jobs][:5]
    after: int | None = 0
    while after is not None:
        after = queue.requeue(
            status=None, ids=[*ids, ids[0], 10**9], batch=2, after=after
        ).looked_to
    assert {job.id for job in queue.page_jobs(status="pending").jobs} == set(ids)
    [entry] = [entry for entry in queue.audit() if entry.event == "requeued"]
    assert entry.figures == {"status": "every", "selected": 7}


@pytest.mark.contract
def test_a_selection_is_narrowed_down_by_the_other_arguments(
    failed: Database, queue: AdminQueue
) -> None:
    ids = [job.id for job in queue.page_jobs().jobs]
    assert requeue(queue, ids=[]) == 0
    assert requeue(queue, status="completed", ids=ids) == 0
    assert requeue(queue, error_class="other", ids=ids) == 0
    assert requeue(queue, record="3", ids=ids) == 1
    assert requeue(queue, ids=ids[:3]) == 2
    assert pending(failed) == 3


def test_a_call_without_a_batch_requeues_all(failed: Database) -> None:
    assert rows(failed, "select requeued, looked_to from requeue_embeddings()") == [(5, None)]
    assert rows(failed, "select requeued, looked_to from requeue_embeddings(null)") == [(5, None)]


def test_the_documented_loop_requeues_all_in_short_transactions(thousands: Database) -> None:
    page = (REPOSITORY / "docs" / "sql-api.md").read_text(encoding="utf-8")
    section = page.split("### Requeue many jobs")[1]
    loop = section.split("```sql")[1].split("```")[0]
    thousands.execute(loop.encode())
    assert pending(thousands) == 4100
    assert value(thousands, "select count(distinct updated_at) from embedding_queue") == 3


def test_a_job_that_fails_again_meanwhile_is_not_requeued_twice(
    thousands: Database, queue: AdminQueue
) -> None:
    def fail_again(_: int) -> None:
        jobs = claim(queue, 500)
        queue.fail(jobs[:250], "rejected", "again")
        queue.fail(jobs[250:], "a_class_that_is_read_first", "again")

    assert requeue(queue, on_batch=fail_again) == 4100
    assert value(thousands, "select count(*) from embedding_queue where status = 'failed'") == 1500


def test_a_job_that_was_embedded_again_meanwhile_is_not_requeued_twice(
    thousands: Database, queue: AdminQueue
) -> None:
    def embed_some(_: int) -> None:
        embed(queue, claim(queue, 500))

    assert requeue(queue, status=None, on_batch=embed_some) == 4100
    assert pending(thousands) == 4100 - 4 * 500


def test_it_ends_after_the_current_batch_and_the_next_call_continues(
    thousands: Database, queue: AdminQueue
) -> None:
    stop = Event()
    so_far: list[int] = []

    def on_batch(count: int) -> None:
        so_far.append(count)
        stop.set()

    first = requeue(queue, stop=stop, on_batch=on_batch)
    assert so_far == [first]
    assert pending(thousands) == first
    assert requeue(queue) == 4100 - first
    assert requeue(queue, stop=stop) == 0


def test_a_locked_job_is_passed_over_and_not_waited_for(
    failed: Database, queue: AdminQueue, connect: Connect
) -> None:
    failed.execute("alter function requeue_embeddings set lock_timeout = '1s'")
    editing = connect()
    with editing.transaction():
        editing.execute("update docs set body = 'edited' where id = 3")
        assert requeue(queue) == 4
    assert embed_all(queue) == ["edited", "text 1", "text 2", "text 4", "text 5"]


@pytest.mark.contract
def test_it_keeps_to_its_column_class_and_record(failed: Database, queue: AdminQueue) -> None:
    notes = Table(failed, "public", "notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    fail_all(failed)
    failed.execute("update embedding_queue set error_class = 'bad' where record_id in ('2', '4')")
    assert queue.requeue(status="failed", table="notes").requeued == 1
    assert queue.requeue(status="failed", error_class="bad").requeued == 2
    assert queue.requeue(status="failed", record="4").requeued == 0
    assert queue.requeue(status=None, record="1").requeued == 2
    assert queue.requeue(status="failed", column="embedding").requeued == 2
    assert pending(failed) == 6


def test_few_jobs_of_a_table_among_many_take_several_short_calls(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 50)
    notes = Table(docs, "public", "notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    found = []
    after: int | None = 0
    while after is not None:
        batch = queue.requeue(status=None, table="notes", batch=1, after=after)
        found.append(batch.requeued)
        after = batch.looked_to
    assert found == [0, 0, 1, 0]


def test_a_worker_loses_its_lease(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    assert requeue(queue, status=None) == 2
    assert {refusal.reason for refusal in embed(queue, jobs)} == {"lost"}
    expire_leases(docs)
    assert len(embed_all(queue)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "batch => 10",
        "batch => 10, only_error_class => 'rejected'",
        "batch => 10, failed_before => now()",
        "null, batch => 10",
        "null, batch => 10, after_id => 2000",
        "null, batch => 10, only_record => '7'",
    ],
)
def test_a_batch_reads_only_its_own_jobs(docs: Database, arguments: LiteralString) -> None:
    docs.execute("analyze embedding_queue")  # the planner knows no better than an empty queue
    docs.execute("alter table embedding_queue set (autovacuum_enabled = off)")
    insert(docs, 5000)
    fail_all(docs)
    for _ in range(8):  # Postgres keeps a plan from the sixth call on
        with docs.transaction():
            before = rows_read(docs)
            docs.execute("select requeue_embeddings(" + arguments + ")")
            assert rows_read(docs) - before < 1000


@pytest.mark.over_a_connection
def test_a_batch_that_takes_too_long_is_made_smaller(
    failed: Database, queue: AdminQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed.execute(
        "create function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.2); return new; end $$"
    )
    failed.execute(
        "create trigger slow before update on embedding_queue for each row execute function slow()"
    )
    monkeypatch.setitem(STATEMENT_TIMEOUTS, "requeue_embeddings", "500ms")
    assert requeue(queue) == 5
    assert pending(failed) == 5
