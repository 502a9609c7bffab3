"""How many jobs stand where, known at every moment without counting them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import claim
from tests.integration.tables import Table, embed, embed_all
from worker.queue import OperatorQueue
from worker.queue.postgres import PostgresQueue

STATES: LiteralString = "pending, processing, completed, failed, skipped"

COUNTED: LiteralString = f"""
    select table_name, {STATES} from embedding_status
     where (pending, processing, completed, failed, skipped) <> (0, 0, 0, 0, 0) order by 1"""

THERE: LiteralString = """
    select table_name, count(*) filter (where status = 'pending'),
           count(*) filter (where status = 'processing'),
           count(*) filter (where status = 'completed'),
           count(*) filter (where status = 'failed'),
           count(*) filter (where status = 'skipped')
      from embedding_queue group by 1 order by 1"""


def counted(db: Database) -> list[tuple[object, ...]]:
    """What the status says, which is what there is."""
    found = rows(db, COUNTED)
    assert found == rows(db, THERE)
    return found


def log_rows(db: Database) -> int:
    return int(value(db, "select count(*) from embedding_counts"))


def test_the_counts_follow_a_job_through_its_life(docs: Database, queue: OperatorQueue) -> None:
    assert counted(docs) == []
    docs.execute(
        "insert into docs select i, nullif('text ' || i, 'text 1') from generate_series(1, 20) i"
    )
    assert counted(docs) == [("docs", 20, 0, 0, 0, 0)]
    embed(queue, claim(queue, 5))
    assert counted(docs) == [("docs", 15, 0, 4, 0, 1)]
    queue.fail(claim(queue, 3), "rejected", "too long")
    held = claim(queue, 2)
    assert counted(docs) == [("docs", 10, 2, 4, 3, 1)]
    queue.release(held)
    docs.execute("select requeue_embeddings()")
    assert counted(docs) == [("docs", 15, 0, 4, 0, 1)]
    docs.execute("delete from docs where id > 18")
    docs.execute("update docs set body = 'edited' where id <= 3")
    counted(docs)
    embed_all(queue)
    assert counted(docs) == [("docs", 0, 0, 18, 0, 0)]
    docs.execute("truncate docs")
    assert counted(docs) == []


def test_the_counts_follow_what_is_done_by_hand(docs: Database, queue: OperatorQueue) -> None:
    notes = Table(docs, name="notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 9) i")
    docs.execute("update embedding_queue set status = 'skipped' where record_id in ('1', '2')")
    docs.execute(
        "update embedding_queue set status = 'failed', error_message = '' where record_id = '3'"
    )
    docs.execute("update embedding_queue set target_id = target_id, table_name = table_name")
    assert counted(docs) == [("docs", 6, 0, 0, 1, 2), ("notes", 0, 0, 0, 0, 1)]
    docs.execute("delete from embedding_queue where record_id in ('1', '9')")
    assert counted(docs) == [("docs", 5, 0, 0, 1, 1)]
    docs.execute("truncate embedding_queue")
    assert counted(docs) == []


def test_what_is_rolled_back_was_never_counted(docs: Database) -> None:
    docs.execute("insert into docs values (1, 'one')")
    with docs.transaction(force_rollback=True):
        docs.execute("insert into docs values (2, 'two')")
        assert counted(docs) == [("docs", 2, 0, 0, 0, 0)]
        docs.execute("select embedding_fold_counts()")
        docs.execute("truncate embedding_queue")
        assert counted(docs) == []
    assert counted(docs) == [("docs", 1, 0, 0, 0, 0)]


def test_nothing_is_written_where_no_status_changes(docs: Database, queue: OperatorQueue) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    before = log_rows(docs)
    docs.execute("update docs set body = body || '!'")
    docs.execute("update embedding_queue set priority = 5")
    docs.execute("delete from docs where id = 3")
    assert log_rows(docs) == before


def test_a_column_that_is_no_longer_watched_is_no_longer_counted(
    docs: Database, queue: OperatorQueue
) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    docs.execute("select embedding_fold_counts()")
    assert log_rows(docs) == 0
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    docs.execute("insert into docs values (3, 'three')")
    assert counted(docs) == [("docs", 1, 0, 0, 0, 0)]


# -- folding


def test_folding_keeps_the_sums_and_shortens_the_log(docs: Database, queue: OperatorQueue) -> None:
    for i in range(30):
        docs.execute("insert into docs values (%s, 'text')", [i])
    embed(queue, claim(queue, 10))
    before = counted(docs)
    assert log_rows(docs) > 30
    docs.execute("select embedding_worker_seen('tests', 'here', 1)")
    assert (counted(docs), log_rows(docs)) == (before, 1)


def test_a_writer_of_many_rows_folds_them_itself(docs: Database) -> None:
    docs.execute(
        "do $$ begin for i in 1..2500 loop insert into docs values (i, 'text'); end loop; end $$"
    )
    assert counted(docs) == [("docs", 2500, 0, 0, 0, 0)]
    assert log_rows(docs) < 1000


def test_a_writer_under_an_old_snapshot_does_not_fold_and_does_not_fail(
    docs: Database, other: Database
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("insert into docs values (2, 'two')")
    with other.transaction():
        other.execute("set transaction isolation level repeatable read")
        other.execute("select from docs")
        docs.execute("select embedding_fold_counts()")
        other.execute("select setval('embedding_counts_id_seq', 999)")
        other.execute("insert into docs values (3, 'three')")
    assert counted(docs) == [("docs", 3, 0, 0, 0, 0)]


@pytest.fixture
def other(docs: Database) -> Iterator[Database]:
    with psycopg.connect(docs.info.dsn, autocommit=True, prepare_threshold=None) as connection:
        yield connection


def test_two_that_fold_at_once_lose_nothing_and_wait_for_nobody(
    docs: Database, other: Database
) -> None:
    other.execute("set lock_timeout = '5s'")
    for i in range(10):
        docs.execute("insert into docs values (%s, 'text')", [i])
    with docs.transaction():
        docs.execute("select embedding_fold_counts()")
        other.execute("insert into docs values (10, 'text')")
        other.execute("insert into docs values (11, 'text')")
        other.execute("select embedding_fold_counts()")
        assert counted(other) == [("docs", 12, 0, 0, 0, 0)]
    assert counted(docs) == [("docs", 12, 0, 0, 0, 0)]


def test_workers_and_writers_at_once_leave_exact_counts(docs: Database, database_url: str) -> None:
    docs.execute("select setval('embedding_counts_id_seq', 900)")

    def work(number: int) -> None:
        with PostgresQueue(database_url, f"tests-{number}") as queue:
            for _ in range(10):
                if jobs := claim(queue, 7):
                    embed(queue, jobs)

    def write(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True, prepare_threshold=None) as connection:
            for i in range(60):
                connection.execute("insert into docs values (%s, 'text')", [number * 1000 + i])
                connection.execute("select embedding_fold_counts()")

    with ThreadPoolExecutor(4) as pool:
        for done in [*pool.map(write, (1, 2)), *pool.map(work, (1, 2))]:
            assert done is None
    counted(docs)


# -- mending


def test_a_recount_mends_what_the_triggers_did_not_see(docs: Database) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    docs.execute("alter table embedding_queue disable trigger user")
    docs.execute("update embedding_queue set status = 'completed' where record_id = '1'")
    docs.execute("delete from embedding_queue where record_id = '2'")
    docs.execute("alter table embedding_queue enable trigger user")
    assert rows(docs, COUNTED) == [("docs", 2, 0, 0, 0, 0)]
    assert value(docs, "select recount_embeddings()") == 1
    assert counted(docs) == [("docs", 0, 0, 1, 0, 0)]
    assert value(docs, "select recount_embeddings()") == 1
    assert counted(docs) == [("docs", 0, 0, 1, 0, 0)]


def test_a_recount_is_right_beside_a_write_that_is_not_committed(
    docs: Database, other: Database
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    with other.transaction():
        other.execute("insert into docs values (2, 'two')")
        docs.execute("select recount_embeddings()")
    assert counted(docs) == [("docs", 2, 0, 0, 0, 0)]


def test_writes_go_on_without_the_table_of_counts(docs: Database) -> None:
    docs.execute("drop table embedding_counts cascade")
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("update docs set body = 'two'")
    assert value(docs, "select status from embedding_queue") == "pending"


# -- what is not counted exactly


def test_the_rows_of_a_large_table_are_estimated(docs: Database, queue: OperatorQueue) -> None:
    docs.execute("alter table docs disable trigger user")
    docs.execute("alter table docs alter body set storage plain")
    docs.execute("insert into docs select i, repeat('x', 3000) from generate_series(1, 1500) i")
    [found] = queue.status()
    assert (found.rows, found.rows_exact) == (1500, True)
    docs.execute("insert into docs select i, repeat('x', 3000) from generate_series(1501, 9000) i")
    docs.execute("analyze docs")
    [found] = queue.status()
    assert (found.rows, found.rows_exact) == (9000, False)


def test_what_is_due_is_exact_until_many_are_due_while_others_wait(
    docs: Database, queue: OperatorQueue
) -> None:
    docs.execute("insert into docs select i, 'text' from generate_series(1, 10500) i")
    [found] = queue.status()
    assert (found.due, found.due_exact) == (10500, True)
    docs.execute(
        "update embedding_queue set available_at = now() + interval '1 h' where record_id = '7'"
    )
    [found] = queue.status()
    assert (found.due, found.due_exact) == (10000, False)
    docs.execute(
        "update embedding_queue set available_at = now() + interval '1 h' where record_id > '4'"
    )
    [found] = queue.status()
    due = value(docs, "select count_due_embeddings()")
    assert (found.due, found.due_exact) == (due, True)
    assert 0 < due < 10000
