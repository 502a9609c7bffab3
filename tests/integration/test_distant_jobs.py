"""Jobs that are never due, or leased for a thousand years, do not slow any call down."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, insert
from worker.queue import AdminQueue

MANY = 20_000

CALLS: dict[str, LiteralString] = {
    "claim": "select count(*) from claim_embeddings('test', 10, default_model => 'test:model')",
    "poll": "select * from poll_embeddings('test', 'test:model')",
    "extend": "select count(*) from extend_embeddings('test', '{}', '{}', '5 minutes')",
    "heartbeat": "select embedding_worker_heartbeat('test', 'host', 1)",
    "deregister": "select embedding_worker_deregister('test')",
    "count": "select count_due_embeddings()",
    "status": "select due, oldest_due from embedding_status",
    "progress": "select due from embedding_progress",
    "overview": "select embedding_overview()",
    "list": "select count(*) from list_embeddings()",
    "page of pending": "select page_embeddings('pending')",
    "page of processing": "select page_embeddings('processing')",
    "begin a batch": "select count(*) from begin_embedding_batch('test', '1 hour', 'test:model')",
    "next batch": "select count(*) from next_embedding_batch('test', '1 hour')",
    "batch backfills": "select count(*) from list_batch_backfills()",
    "plan batches": "select plan_embedding_batches('docs', 'embedding', 10)",
    "stop waiting": "select cancel_waiting_embeddings('docs', 'embedding', 10)",
    "claim into a batch": "select count(*) from claim_embedding_batch(1, 'test', 10, 'test:model')",
    "jobs of a batch": "select count(*) from embedding_batch_jobs(2, '{100,101,102}')",
    "give back": "select release_embedding_batch(2, 'test', true, 2000, '{100,101,102}')",
    "estimate": "select count(*) from estimate_embeddings('test:model')",
}

EXPLAIN: LiteralString = "explain (analyze, buffers, costs off, timing off, format json) "


def pages_read(db: Database, call: LiteralString) -> int:
    """How many pages of the database a call reads, in plans that its session has kept."""
    plan: dict[str, int] = {}
    for _ in range(7):
        with db.transaction(force_rollback=True):
            plan = value(db, EXPLAIN + call)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.fixture
def distant(docs: Database) -> Database:
    """Many jobs that wait for a batch or are in one, with statistics from when there were none."""
    docs.execute("alter table embedding_queue set (autovacuum_enabled = off)")
    docs.execute("vacuum analyze docs, embedding_queue, embedding_targets")
    insert(docs, 20)
    docs.execute(
        "insert into embedding_queue (target_id, table_name, record_id, embedding_column,"
        "                             priority, available_at)"
        " select id, table_name, n::text, embedding_column, n %% 3 - 1, 'infinity'"
        "   from embedding_targets, generate_series(100, 99 + 2 * %s) as n",
        [MANY],
    )
    docs.execute(
        "update embedding_queue set status = 'processing', worker = 'for long',"
        "  lease = gen_random_uuid(), lease_expires_at = clock_timestamp() + '1000 years'"
        " where available_at = 'infinity' and id % 2 = 0"
    )
    docs.execute(
        "insert into embedding_batch_backfills (target_id) select id from embedding_targets"
    )
    docs.execute(
        "insert into embedding_batches (target_id, table_name, embedding_column, model, worker,"
        "                               state, provider_batch)"
        " select id, table_name, embedding_column, 'test:model', 'test', state, 'x'"
        "   from embedding_targets, unnest(array['preparing', 'submitted']) as state"
    )
    docs.execute("vacuum analyze embedding_batches, embedding.batch_jobs")
    docs.execute(
        "insert into embedding.batch_jobs select 2, id, lease, sha256(record_id::bytea)"
        "  from embedding_queue where lease is not null"
    )
    docs.execute("delete from embedding_counts")
    docs.execute("select recount_embeddings()")
    return docs


def test_a_call_reads_few_of_them(distant: Database) -> None:
    """Whether other jobs are due or none."""
    for index in ("embedding_queue_leased", "embedding_queue_never_due"):
        assert value(distant, "select pg_relation_size(%s) / 8192", index) > 50
    for _ in range(2):
        pages = {name: pages_read(distant, call) for name, call in CALLS.items()}
        assert {name: read for name, read in pages.items() if read > 500} == {}
        distant.execute("delete from docs")


def test_they_are_listed_after_all_others(distant: Database, queue: AdminQueue) -> None:
    distant.execute(
        "delete from embedding_queue where record_id::int >= 200 and available_at = 'infinity'"
    )
    seen: list[str] = []
    page = queue.page_jobs(status="pending", limit=7)
    while page.next_cursor:
        seen += [job.record_id for job in page.jobs]
        page = queue.page_jobs(status="pending", limit=7, cursor=page.next_cursor)
    seen += [job.record_id for job in page.jobs]
    never_due = rows(
        distant,
        "select record_id from embedding_queue"
        " where status = 'pending' and available_at = 'infinity' order by id",
    )
    assert seen == [*(str(record) for record in range(1, 21)), *(record for (record,) in never_due)]
    listed = queue.list_jobs(["pending"], None, None, 25)
    assert [job.record_id for job in listed] == seen[:25]


def test_those_that_are_due_are_counted_beside_them(distant: Database, queue: AdminQueue) -> None:
    due = "select due, due_exact from embedding_status"
    assert rows(distant, due) == [(20, True)]
    assert value(distant, "select count_due_embeddings()") == 20
    distant.execute("delete from embedding_queue where id % 500 <> 0 and available_at = 'infinity'")
    assert rows(distant, due) == [(20, True)]


def test_what_was_claimed_by_a_call_whose_answer_was_lost_is_found_beside_them(
    distant: Database, queue: AdminQueue
) -> None:
    held, *lost = claim(queue, 5)
    assert queue.extend(SCOPE, [held]) == set()
    assert rows(
        distant,
        "select record_id, status from embedding_queue where error_message ~ 'lost' order by id",
    ) == [(job.record_id, "pending") for job in lost]
    assert value(distant, "select count(*) from embedding_queue where worker = 'for long'") == MANY
