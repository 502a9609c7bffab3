"""The counts of the jobs, which are sums of notes: what they say is what a count would say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, complete, insert
from worker.queue import OperatorQueue
from worker.queue.postgres import PostgresQueue

BY_NOTES = (
    "select target_id, status, sum(jobs)::integer from embedding_counts"
    " group by 1, 2 having sum(jobs) <> 0 order by 1, 2"
)
BY_HAND = (
    "select target_id, status, count(*)::integer from embedding_queue group by 1, 2 order by 1, 2"
)
NOTES = "select count(*) from embedding_counts"


def counted(db: Database) -> dict[str, int]:
    """How many jobs are in each status, by the notes, which are right."""
    by_notes = rows(db, BY_NOTES)
    assert by_notes == rows(db, BY_HAND)
    return {status: jobs for _, status, jobs in by_notes}


def test_whatever_becomes_of_a_job_is_counted(docs: Database, queue: OperatorQueue) -> None:
    docs.execute("insert into docs values (0, null)")
    insert(docs, 20)
    assert counted(docs) == {"pending": 21}
    jobs = claim(queue, 10)
    assert counted(docs) == {"pending": 11, "processing": 9, "skipped": 1}
    assert complete(queue, jobs[:4]) == []
    queue.fail(jobs[4:6], "rejected", "no")
    queue.release(jobs[6:])
    assert counted(docs) == {"pending": 14, "completed": 4, "failed": 2, "skipped": 1}
    queue.requeue(status="failed")
    docs.execute("update docs set body = body || '!' where id < 4")
    assert counted(docs) == {"pending": 19, "completed": 1, "skipped": 1}
    docs.execute("delete from docs where id in (0, 19)")
    docs.execute(
        "update embedding_queue set status = 'failed', error_message = 'by hand'"
        " where record_id = '20'"
    )
    docs.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column)"
        " values ('docs', '5', 'embedding')"
        " on conflict (table_name, record_id, embedding_column)"
        " do update set status = 'pending'"
    )
    assert counted(docs) == {"pending": 17, "completed": 1, "failed": 1}
    docs.execute("truncate docs")
    assert counted(docs) == {}


def test_what_is_rolled_back_does_not_count(docs: Database) -> None:
    insert(docs, 5)
    with docs.transaction(force_rollback=True):
        docs.execute("insert into docs select i, 'text' from generate_series(100, 200) i")
        assert counted(docs) == {"pending": 106}
    assert counted(docs) == {"pending": 5}


def test_where_no_status_changes_nothing_is_noted(docs: Database, queue: OperatorQueue) -> None:
    insert(docs, 5)
    jobs = claim(queue)
    notes = value(docs, NOTES)
    queue.extend(SCOPE, jobs)
    docs.execute("update docs set views = 1")
    docs.execute("update embedding_queue set priority = 3")
    docs.execute("delete from embedding_queue where record_id = 'none'")
    assert value(docs, NOTES) == notes


def test_the_notes_stay_few(docs: Database) -> None:
    for number in range(1200):
        docs.execute("insert into docs values (%s, 'text')", [number])
    assert value(docs, NOTES) <= 600, "who writes many of them folds some"
    docs.execute("select embedding_worker_seen('test', 'here', 1)")
    assert value(docs, NOTES) == 1, "and so does a heartbeat"
    assert counted(docs) == {"pending": 1200}


def test_who_sees_the_past_is_not_stopped_by_who_folds(docs: Database, database_url: str) -> None:
    insert(docs, 5)
    with psycopg.connect(database_url, prepare_threshold=None) as other:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select count(*) from docs")
        docs.execute("select embedding_fold_counts()")
        for number in range(600, 1201):
            other.execute("insert into docs values (%s, 'text')", [number])
    assert counted(docs) == {"pending": 606}


def test_several_who_write_and_fold_lose_nothing(
    docs: Database, queue: OperatorQueue, database_url: str
) -> None:
    together = Barrier(4)

    def write(part: int) -> None:
        with psycopg.connect(database_url, autocommit=True, prepare_threshold=None) as writer:
            together.wait()
            for number in range(150):
                writer.execute("insert into docs values (%s, 'text')", [1000 * part + number])
                if number % 10 == 0:
                    writer.execute("select embedding_fold_counts()")

    def work() -> None:
        with PostgresQueue(database_url, "another") as another:
            together.wait()
            for _ in range(30):
                complete(another, claim(another, 10))

    with ThreadPoolExecutor(4) as pool:
        for ending in [*(pool.submit(write, part) for part in (1, 2, 3)), pool.submit(work)]:
            ending.result(60)
    assert sum(counted(docs).values()) == 450


def test_a_column_that_is_watched_no_more_counts_for_nothing(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 5)
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    assert counted(docs) == {}
    assert queue.status() == []


def test_of_a_large_table_the_planner_is_asked(docs: Database, queue: OperatorQueue) -> None:
    docs.execute(
        "insert into docs select i, repeat('long ', 1000) || i, 0 from generate_series(1, 2000) i"
    )
    docs.execute("alter table docs alter body set storage plain")
    docs.execute("update docs set body = body || ' and more'")
    docs.execute("analyze docs")
    [found] = queue.status()
    assert found.rows_exact is False
    assert found.rows == pytest.approx(2000, rel=0.1)


def test_of_many_pending_the_oldest_is_found_by_owner(docs: Database, queue: OperatorQueue) -> None:
    docs.execute("insert into docs select i, 'text', 0 from generate_series(1, 10050) i")
    docs.execute("update embedding_queue set user_id = md5(id::text)::uuid where id % 500 = 0")
    oldest = "now() - interval '1 hour'"
    docs.execute(
        f"update embedding_queue set available_at = {oldest}, priority = -3"
        " where record_id = '9000'"
    )
    [found] = queue.status()
    assert (found.due, found.due_exact) == (10050, False)
    assert found.oldest_due == value(docs, "select min(available_at) from embedding_queue")
    docs.execute("update embedding_queue set available_at = now() + interval '1 hour'")
    [found] = queue.status()
    assert (found.due, found.oldest_due) == (0, None)
