"""How many jobs stand where is known at every moment, and to the job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, complete, expire_leases, insert
from tests.integration.tables import Connect, Table
from worker.queue import AdminQueue, Report

STATUSES: tuple[LiteralString, ...] = ("pending", "processing", "completed", "failed", "skipped")
WRONG: LiteralString = " union all ".join(
    f"select '{status}', coalesce(counted.jobs, 0), coalesce(known.jobs, 0)"
    f"  from (select target_id, count(*) as jobs from embedding_queue where status = '{status}'"
    "          group by target_id) as counted"
    f"  full join (select target_id, sum({status}) as jobs from embedding_counts"
    "              group by target_id) as known using (target_id)"
    " where coalesce(counted.jobs, 0) <> coalesce(known.jobs, 0)"
    for status in STATUSES
)


def wrong_counts(db: Database) -> list[object]:
    """Status, jobs counted and jobs known, of each count that is not right. In one snapshot."""
    return list(rows(db, WRONG))


def counts(db: Database) -> tuple[int, ...]:
    """Jobs that are known, by status in the order of STATUSES."""
    [found] = rows(
        db, "select pending, processing, completed, failed, skipped from embedding_status"
    )
    return tuple(found)


def test_a_job_is_counted_wherever_it_goes(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (0, ''), (-1, null)")
    insert(docs, 10)
    assert counts(docs) == (12, 0, 0, 0, 0)
    taken = claim(queue, 9)  # of which two have nothing to embed
    assert counts(docs) == (3, 7, 0, 0, 2)
    complete(queue, taken[:3])
    queue.fail(taken[3:5], "rejected", "no")
    queue.release(taken[5:6])
    assert counts(docs) == (4, 1, 3, 2, 2)
    expire_leases(docs)
    assert counts(docs) == (4, 1, 3, 2, 2)
    docs.execute("update docs set body = 'other' where id = %s", [taken[0].record_id])
    assert counts(docs) == (5, 1, 2, 2, 2)
    queue.requeue(status="failed")
    assert counts(docs) == (7, 1, 2, 0, 2)
    docs.execute("delete from docs where id > 0")
    assert counts(docs) == (0, 0, 0, 0, 2)
    assert wrong_counts(docs) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("update embedding_queue set status = 'completed' where record_id <= '2'", (2, 2)),
        ("update embedding_queue set status = 'pending', available_at = now()", (4, 0)),
        ("delete from embedding_queue where record_id = '3'", (3, 0)),
        (
            "insert into embedding_queue (table_name, record_id, embedding_column)"
            " values ('docs', '9', 'embedding')",
            (5, 0),
        ),
        ("truncate embedding_queue", (0, 0)),
        (
            "merge into embedding_queue as job using (values ('1'), ('2'), ('3')) as given (id)"
            " on job.record_id = given.id"
            " when matched and given.id = '1' then delete"
            " when matched then update set status = 'completed'",
            (1, 2),
        ),
    ],
)
def test_what_people_do_by_hand_is_counted(
    docs: Database, statement: LiteralString, expected: tuple[int, int]
) -> None:
    insert(docs, 4)
    docs.execute(statement)
    pending, _, completed, *_ = counts(docs)
    assert (pending, completed) == expected
    assert wrong_counts(docs) == []


def test_what_is_rolled_back_was_never_counted(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 3)
    with docs.transaction(force_rollback=True):
        docs.execute("insert into docs select i, 'text' from generate_series(4, 3000) i")
        docs.execute("delete from docs where id = 1")
        docs.execute("select embedding.fold_counts()")
        assert counts(docs) == (2999, 0, 0, 0, 0)
    with docs.transaction():
        docs.execute("savepoint before")
        docs.execute("truncate embedding_queue")
        docs.execute("rollback to savepoint before")
    assert counts(docs) == (3, 0, 0, 0, 0)
    assert wrong_counts(docs) == []


def test_a_change_that_moves_no_job_writes_nothing(docs: Database) -> None:
    insert(docs, 3)
    before = rows(docs, "select * from embedding_counts")
    docs.execute("update embedding_queue set priority = 5, updated_at = now()")
    docs.execute("update embedding_queue set status = status")
    docs.execute("delete from embedding_queue where false")
    docs.execute("update docs set body = 'other'")  # pending before and after
    assert rows(docs, "select * from embedding_counts") == before


def test_what_failed_is_counted_by_class(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 6)
    taken = claim(queue)
    queue.fail(taken[:2], "rejected", "no")
    queue.fail(taken[2:3], "too_long", "9000 tokens")
    docs.execute("select embedding.fold_counts()")
    docs.execute("update embedding_queue set error_class = null where error_class = 'too_long'")
    docs.execute(
        "update embedding_queue set error_class = 'by_hand' where record_id = %s",
        [taken[0].record_id],
    )
    assert sorted(
        (str(found.error_class), found.failed, found.latest_message)
        for found in queue.overview().failures
    ) == [("None", 1, "9000 tokens"), ("by_hand", 1, "no"), ("rejected", 1, "no")]
    docs.execute("select embedding.fold_counts()")
    queue.requeue(status="failed")
    assert queue.overview().failures == []
    assert wrong_counts(docs) == []


def test_the_counts_of_each_column_are_its_own(docs: Database, queue: AdminQueue) -> None:
    notes = Table(docs, name="notes")
    notes.create()
    notes.watch()
    insert(docs, 2)
    notes.insert(1, "a note")
    claim(queue, 1, replace(SCOPE, table="notes"))
    assert [(found.table_name, found.pending, found.processing) for found in queue.status()] == [
        ("docs", 2, 0),
        ("notes", 0, 1),
    ]
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    assert wrong_counts(docs) == []


def test_writers_fold_what_they_write_when_no_worker_runs(docs: Database) -> None:
    docs.execute(
        "do $$ begin for i in 1..3500 loop"
        " insert into docs values (i, 'text'); commit; end loop; end $$"
    )
    assert int(value(docs, "select count(*) from embedding_counts")) < 2500
    assert counts(docs) == (3500, 0, 0, 0, 0)


def test_a_heartbeat_folds_and_loses_nothing(docs: Database, queue: AdminQueue) -> None:
    for _ in range(5):
        docs.execute("insert into docs select coalesce(max(id), 0) + 1, 'text' from docs")
    assert value(docs, "select count(*) from embedding_counts") == 5
    queue.heartbeat(SCOPE, Report("working"))
    assert value(docs, "select count(*) from embedding_counts") == 1
    assert counts(docs) == (5, 0, 0, 0, 0)


def test_folding_keeps_every_count(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (0, '')")
    insert(docs, 9)
    taken = claim(queue, 7)
    complete(queue, taken[:1])
    queue.fail(taken[1:4], "rejected", "no")
    queue.fail(taken[4:5], "too_long", "9000 tokens")
    before = counts(docs)
    assert sorted(before) == [1, 1, 1, 3, 4]
    for _ in range(2):
        docs.execute("select embedding.fold_counts()")
        assert counts(docs) == before
        assert wrong_counts(docs) == []
    assert sorted((found.error_class, found.failed) for found in queue.overview().failures) == [
        ("rejected", 3),
        ("too_long", 1),
    ]


def test_nobody_waits_for_somebody_who_counts_or_folds(docs: Database, connect: Connect) -> None:
    insert(docs, 2)
    docs.execute("insert into docs values (3, 'three')")
    with connect() as other:
        other.execute("set lock_timeout = '100ms'")
        with docs.transaction():
            docs.execute("insert into docs values (4, 'four')")
            docs.execute("select embedding.fold_counts()")
            other.execute("insert into docs values (5, 'five')")
            other.execute("select embedding.fold_counts()")
            assert counts(other) == (4, 0, 0, 0, 0)
        assert counts(other) == (5, 0, 0, 0, 0)
        other.execute("select embedding.fold_counts()")
        assert value(other, "select count(*) from embedding_counts") == 1
    assert wrong_counts(docs) == []


def test_a_fold_never_fails_a_transaction_with_a_snapshot(docs: Database, connect: Connect) -> None:
    insert(docs, 1)
    with connect() as other, other.transaction():
        other.execute("set transaction isolation level serializable")
        other.execute("select count(*) from embedding_counts")
        docs.execute("insert into docs values (2, 'two')")
        docs.execute("select embedding.fold_counts()")
        other.execute("select embedding.fold_counts()")
        other.execute("insert into docs values (3, 'three')")
    assert counts(docs) == (3, 0, 0, 0, 0)


def test_counts_are_exact_while_everybody_is_at_work(docs: Database, connect: Connect) -> None:
    insert(docs, 200)

    def work(number: int) -> None:
        with connect() as mine:
            for turn in range(15):
                first = 1000 * number + 10 * turn
                mine.execute(
                    "insert into docs select i, 'text' from generate_series(%s::int, %s) i",
                    [first, first + 4],
                )
                mine.execute(
                    "select count(*) from claim_embeddings(%s, 7, '5 min', 'test:model')",
                    [f"worker {number}"],
                )
                mine.execute(
                    "update embedding_queue set status = 'completed' where id in (select id"
                    " from embedding_queue where worker = %s order by id limit 3 for update)",
                    [f"worker {number}"],
                )
                mine.execute("delete from docs where id = %s", [first])
                mine.execute("select embedding.fold_counts()")

    with ThreadPoolExecutor(4) as pool, connect() as reader:
        working = [pool.submit(work, number) for number in range(1, 5)]
        while not all(each.done() for each in working):
            assert wrong_counts(reader) == []
        for each in working:
            each.result()
    assert wrong_counts(docs) == []
    assert sum(counts(docs)) == 200 + 4 * 15 * 4


def test_a_writer_is_served_without_the_table_of_counts(docs: Database) -> None:
    docs.execute("drop table embedding_counts cascade")
    insert(docs, 2)
    docs.execute("update docs set body = 'other'")
    docs.execute("delete from docs where id = 1")
    assert value(docs, "select count(*) from embedding_queue") == 1


def test_a_recount_mends_what_went_past_the_triggers(docs: Database) -> None:
    insert(docs, 3)
    with docs.transaction():
        docs.execute("set local session_replication_role = replica")
        docs.execute("update embedding_queue set status = 'completed' where record_id < '3'")
        docs.execute("delete from embedding_queue where record_id = '3'")
    assert wrong_counts(docs) != []
    assert value(docs, "select recount_embeddings()") == 2
    assert counts(docs) == (0, 0, 2, 0, 0)
    docs.execute("alter table embedding_counts rename to suspended")
    with pytest.raises(psycopg.errors.UndefinedTable):
        docs.execute("select recount_embeddings()")


# -- estimates, which say that they are


def test_the_rows_of_a_large_table_are_estimated(docs: Database, queue: AdminQueue) -> None:
    docs.execute("alter table docs disable trigger user")
    docs.execute(
        "insert into docs select i, repeat('x', 900), i % 2 from generate_series(1, 24000) i"
    )
    docs.execute("alter table docs set (autovacuum_enabled = false)")
    for tolerance in (0.1, 0.02):  # by a sample, then by the statistics
        [found] = queue.status()
        assert not found.rows_exact
        assert found.rows == pytest.approx(24000, rel=tolerance)
        docs.execute("update embedding_targets set filter = 'views = 1'")
        [found] = queue.status()
        assert found.rows == pytest.approx(12000, rel=0.1)
        assert queue.status() == [found]
        docs.execute("update embedding_targets set filter = null")
        docs.execute("analyze docs")


def test_many_due_among_many_that_wait_are_counted_up_to_a_bound(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 11_050)
    for waiting, due in ((0, (11_050, True)), (999, (10_051, True)), (1000, (10_000, False))):
        docs.execute(
            "update embedding_queue set available_at = now() + interval '1 h'"
            " where record_id::integer <= %s",
            [waiting],
        )
        [found] = queue.status()
        assert (found.due, found.due_exact) == due
