"""Batches of a Batch API, as the database sees them: whose they are, and what becomes of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, create_poison
from tests.integration.tables import Connect, Table, completions_of, embed, jobs
from worker.errors import SettingsError
from worker.queue import AdminQueue, Batch, BatchBackfill, Job, Target, batches

LEASE = timedelta(minutes=5)
AT_ONCE = timedelta(0)
LATER = timedelta(hours=1)
MODEL = SCOPE.default_model
ONE, TWO = "one", "two"


def target_of(queue: AdminQueue, table: str = "docs") -> Target:
    [target] = queue.targets(table)
    return target


def without_jobs(docs: Database, count: int, first: int = 1) -> None:
    """Put rows into the table `docs` that were there before it was watched."""
    docs.execute("alter table docs disable trigger user")
    docs.execute(
        "insert into docs select i, 'text ' || i from generate_series(%s::int, %s::int) i",
        [first, first + count - 1],
    )
    docs.execute("alter table docs enable trigger user")


def plan(queue: AdminQueue, max_cost: float | None = None, table: str = "docs") -> int:
    """Let all that lacks a vector wait for a batch. Returns how many were found."""
    found = 0
    while more := queue.plan_batches(target_of(queue, table), max_cost=max_cost):
        found += more
    return found


@pytest.fixture
def waiting(docs: Database, queue: AdminQueue) -> Database:
    """Six rows of the table `docs` that wait for a batch."""
    without_jobs(docs, 6)
    assert plan(queue) == 6
    return docs


def backfill_of(queue: AdminQueue) -> BatchBackfill:
    [backfill] = queue.batch_backfills()
    return backfill


def begin(queue: AdminQueue, worker: str = ONE) -> Batch:
    batch = queue.begin_batch(worker, LEASE, MODEL)
    assert batch
    return batch


def prepare(queue: AdminQueue, most: int = 100, worker: str = ONE) -> tuple[Batch, list[Job]]:
    """Begin a batch, and claim jobs into it."""
    batch = begin(queue, worker)
    return batch, queue.claim_batch_jobs(batch.id, worker, most, MODEL).jobs


def submit(queue: AdminQueue, most: int = 100, worker: str = ONE) -> tuple[Batch, list[Job]]:
    """Submit a batch, which is to be looked at, and is held by nobody."""
    batch, claimed = prepare(queue, most, worker)
    record_file(queue, batch, worker)
    assert queue.submit_batch(batch.id, worker, f"batch_{batch.id}", None, AT_ONCE)
    return batch, claimed


def record_file(queue: AdminQueue, batch: Batch, worker: str = ONE) -> None:
    assert queue.record_batch_file(
        batch.id, worker, f"file_{batch.id}", texts=6, bytes=600, tokens=60, cost=0.25
    )


def take(queue: AdminQueue, worker: str = TWO) -> Batch:
    batch = queue.next_batch(worker, LEASE)
    assert batch
    return batch


def held(queue: AdminQueue, batch: Batch, claimed: Sequence[Job]) -> list[Job]:
    return [job for _, job in queue.batch_jobs(batch.id, [job.id for job in claimed])]


def collect(queue: AdminQueue, batch: Batch, claimed: Sequence[Job]) -> None:
    """Write the vectors of jobs, as far as the batch holds them, at 3 tokens and 1 cent each."""
    texts = {job.id: job.content for job in claimed}
    for job in (jobs_held := held(queue, batch, claimed)):
        job.content = texts[job.id]
    done = completions_of(jobs_held)
    for each in done:
        each.tokens, each.cost = 3, 0.01
    assert queue.complete(MODEL, done) == []


def end(queue: AdminQueue, batch: Batch, state: batches.BatchState = "completed") -> Batch:
    ended = queue.end_batch(batch.id, TWO, state)
    assert ended
    return ended


def requests(queue: AdminQueue) -> list[tuple[str, object]]:
    """What the audit says about batches, with its figures, the latest first."""
    return [(entry.event, entry.figures) for entry in queue.audit("docs") if "batch" in entry.event]


def fates(batch: Batch) -> tuple[int, int, int, int]:
    return batch.completed, batch.failed, batch.stale, batch.released


def due(db: Database) -> int:
    return int(value(db, "select count_due_embeddings()"))


# -- planning


def test_rows_without_a_vector_wait_and_no_worker_claims_them(
    waiting: Database, queue: AdminQueue
) -> None:
    assert queue.has_batches()
    assert plan(queue) == 0
    assert rows(
        waiting,
        "select status, available_at = 'infinity', count(*) from embedding_queue group by 1, 2",
    ) == [("pending", True, 6)]
    assert (claim(queue), due(waiting), queue.poll(SCOPE)[1]) == ([], 0, False)
    backfill = backfill_of(queue)
    assert (backfill.table_name, backfill.embedding_column) == ("docs", "embedding")
    assert (backfill.waiting, backfill.committed, backfill.max_cost) == (6, 0, None)
    assert (backfill.model, backfill.document_prompt, backfill.dimensions) == (None, None, 3)


def test_an_ordinary_backfill_waits_as_well_and_new_rows_do_not(
    docs: Database, queue: AdminQueue
) -> None:
    without_jobs(docs, 3)
    queue.backfill(target_of(queue), 2)
    docs.execute("insert into docs values (4, 'new')")
    assert due(docs) == 3
    assert plan(queue) == 3
    assert [job.content for job in claim(queue)] == ["new"]


def test_few_at_a_time_are_found_until_all_wait(docs: Database, queue: AdminQueue) -> None:
    without_jobs(docs, 5)
    queue.backfill(target_of(queue), 3)
    found = [queue.plan_batches(target_of(queue), 2) for _ in range(5)]
    assert (found[-1], sum(found) >= 5, backfill_of(queue).waiting) == (0, True, 5)


def test_an_edit_is_due_at_once(waiting: Database, queue: AdminQueue) -> None:
    waiting.execute("update docs set body = 'edited' where id = 3")
    assert [job.content for job in claim(queue)] == ["edited"]
    assert backfill_of(queue).waiting == 5
    _, claimed = prepare(queue)
    assert [job.record_id for job in claimed] == ["1", "2", "4", "5", "6"]


def test_many_jobs_that_wait_are_counted_beside_many_that_do_not(
    waiting: Database, queue: AdminQueue
) -> None:
    waiting.execute("insert into docs select i, 'x' from generate_series(100, 10200) i")
    assert backfill_of(queue).waiting == 6


def test_another_limit_of_the_cost_is_kept_and_audited(
    waiting: Database, queue: AdminQueue
) -> None:
    assert plan(queue, 50) == 0
    assert plan(queue, 50) == 0
    assert backfill_of(queue).max_cost == 50
    assert requests(queue) == [
        ("batches_requested", {"max_cost": 50}),
        ("batches_requested", {}),
    ]


def test_with_nothing_to_embed_nothing_is_requested(docs: Database, queue: AdminQueue) -> None:
    assert plan(queue) == 0
    assert (queue.batch_backfills(), requests(queue)) == ([], [])


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ("chunks => true", "embedded in chunks"),
        ("enhance => 'a:chat'", "embedded with a chat model"),
    ],
)
def test_what_a_batch_cannot_do_is_refused_and_what_waits_is_due(
    waiting: Database, queue: AdminQueue, options: str, cause: str
) -> None:
    enhanced = "enhance" in options
    table = "docs" if enhanced else "texts"
    if not enhanced:
        waiting.execute("create table texts (id bigint primary key, body text)")
    waiting.execute(
        sql.SQL(
            "select watch_embeddings({}, 'body', 'embedding', dimensions => 3, " + options + ")"
        ).format(table)
    )
    with pytest.raises(SettingsError) as refused:
        plan(queue, table=table)
    assert cause in str(refused.value)
    assert "worker backfill" in (refused.value.hint or "")
    if enhanced:
        assert (queue.batch_backfills(), due(waiting)) == ([], 6)


def test_a_column_that_is_not_watched_is_refused(waiting: Database, queue: AdminQueue) -> None:
    target = target_of(queue)
    waiting.execute("select unwatch_embeddings('docs', 'embedding')")
    for call in (queue.plan_batches, queue.cancel_waiting):
        with pytest.raises(SettingsError, match="not watched"):
            call(target)
    assert queue.batch_backfills() == []


def test_jobs_that_no_longer_wait_are_due_below_edits(waiting: Database, queue: AdminQueue) -> None:
    waiting.execute("update docs set body = 'edited' where id = 6")
    assert [queue.cancel_waiting(target_of(queue), 3) for _ in range(3)] == [3, 2, 0]
    assert [job.content for job in claim(queue, 2)] == ["edited", "text 1"]
    assert (queue.batch_backfills(), queue.begin_batch(ONE, LEASE, MODEL)) == ([], None)
    assert [event for event, _ in requests(queue)] == [
        "batches_no_longer_requested",
        "batches_requested",
    ]


# -- preparing and submitting


def test_a_batch_is_begun_by_one_worker_at_a_time(waiting: Database, queue: AdminQueue) -> None:
    batch = begin(queue)
    assert (batch.state, batch.worker, batch.model) == ("preparing", ONE, MODEL)
    assert batch.target_id == backfill_of(queue).target_id
    assert queue.begin_batch(TWO, LEASE, MODEL) is None
    assert queue.next_batch(TWO, LEASE) is None
    assert queue.batches() == [batch]


def test_of_many_workers_at_once_one_begins_a_batch_and_one_takes_it(
    waiting: Database, connect: Connect
) -> None:
    """Each call waits for the transaction of the first."""
    with connect() as first, ThreadPoolExecutor(4) as pool:
        for call in (
            "select id from begin_embedding_batch(%s, '1 hour', 'test:model')",
            "select id from next_embedding_batch(%s, '1 hour')",
        ):
            with first.transaction():
                [(id,)] = rows(first, call, "first")
                others = [pool.submit(rows, connect(), call, name) for name in "abcd"]
            assert [other.result() for other in others] == [[]] * 4
            waiting.execute("update embedding_batches set lease_expires_at = null")
    assert value(waiting, "select worker from embedding_batches where id = %s", id) == "first"


@pytest.mark.parametrize(
    "statement",
    [
        "update embedding_targets set enabled = false",
        "update embedding_targets set problem = 'broken'",
        "update embedding_targets set model = 'other:model', model_is_default = true",
        "update embedding_batch_backfills set retry_at = clock_timestamp() + '1 minute'",
        "delete from embedding_batch_backfills",
        "delete from docs",
    ],
)
def test_none_is_begun_for_a_column_that_cannot_be_claimed_from_now(
    waiting: Database, queue: AdminQueue, statement: str
) -> None:
    waiting.execute(sql.SQL(statement))
    assert queue.begin_batch(ONE, LEASE, MODEL) is None


def test_none_is_begun_out_of_the_scope_of_a_worker(waiting: Database, queue: AdminQueue) -> None:
    assert queue.begin_batch(ONE, LEASE, MODEL, "other") is None
    assert queue.begin_batch(ONE, LEASE, MODEL, "docs", "other") is None
    assert queue.begin_batch(ONE, LEASE, MODEL, None, None, [backfill_of(queue).target_id]) is None
    assert queue.begin_batch(ONE, LEASE, MODEL, "docs", "embedding")


def test_columns_take_turns(waiting: Database, queue: AdminQueue) -> None:
    notes = Table(waiting, "app", "notes")
    notes.create()
    notes.insert(1, "a note")
    notes.watch()
    assert plan(queue, table="app.notes") == 1
    begun = [submit(queue, 1)[0].table_name for _ in range(2)]
    assert begun == ["docs", "app.notes"]


def test_a_job_in_a_batch_has_a_lease_that_does_not_run_out(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, claimed = prepare(queue, 4)
    assert [job.content for job in claimed] == [f"text {record}" for record in range(1, 5)]
    assert rows(
        waiting,
        "select distinct worker, lease_expires_at > now() + interval '900 years'"
        "  from embedding_queue where status = 'processing'",
    ) == [(f"batch {batch.id}", True)]
    assert queue.extend(SCOPE, []) == set()
    assert claim(queue) == []
    assert len(queue.claim_batch_jobs(batch.id, ONE, 100, MODEL).jobs) == 2
    assert not queue.claim_batch_jobs(batch.id, ONE, 100, MODEL)
    assert backfill_of(queue).waiting == 0


def test_a_claim_settles_what_no_model_is_needed_for(waiting: Database, queue: AdminQueue) -> None:
    waiting.execute("set session_replication_role = replica")
    waiting.execute("delete from docs where id = 1")
    waiting.execute("update docs set body = ' ' where id = 2")
    waiting.execute("reset session_replication_role")
    found = queue.claim_batch_jobs(begin(queue).id, ONE, 100, MODEL)
    assert found.settled == {"dropped": 1, "skipped": 1}
    assert [job.record_id for job in found.jobs] == ["3", "4", "5", "6"]


def test_a_row_that_cannot_be_read_fails_alone(db: Database, queue: AdminQueue) -> None:
    create_poison(db, "22012")
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("insert into docs values (1, 'one'), (2, 'poison'), (3, 'three')")
    db.execute(
        "select watch_embeddings('docs', 'public.poison(body)', 'embedding', dimensions => 3)"
    )
    plan(queue)
    _, claimed = prepare(queue)
    assert [job.record_id for job in claimed] == ["1", "3"]
    assert jobs(db) == [("1", "processing"), ("2", "failed"), ("3", "processing")]


def test_a_table_that_cannot_be_read_suspends_its_column(
    waiting: Database, queue: AdminQueue
) -> None:
    batch = begin(queue)
    waiting.execute("alter table docs rename body to content")
    assert not queue.claim_batch_jobs(batch.id, ONE, 100, MODEL)
    assert value(waiting, "select problem from embedding_targets")
    assert backfill_of(queue).waiting == 6


def test_the_steps_of_a_batch_are_recorded(waiting: Database, queue: AdminQueue) -> None:
    batch, _ = prepare(queue)
    record_file(queue, batch)
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    assert queue.submit_batch(batch.id, ONE, "batch_x", expires, LATER)
    [known] = queue.batches()
    assert (known.state, known.input_file, known.provider_batch) == (
        "submitted",
        f"file_{batch.id}",
        "batch_x",
    )
    assert (known.texts, known.bytes, known.tokens, known.cost) == (6, 600, 60, 0.25)
    assert (known.token, known.expires_at) == (batch.token, expires)
    assert known.submitted_at
    assert known.is_under_way
    assert backfill_of(queue).committed == 0.25
    assert queue.next_batch(TWO, LEASE) is None, "it is not its time yet"
    assert queue.next_batch(TWO, LEASE, batch.id)


# -- workers that die


def expire(db: Database) -> None:
    """What time does after a worker died: let the leases of the batches run out."""
    db.execute("update embedding_batches set lease_expires_at = clock_timestamp()")


def test_another_worker_goes_on_where_one_has_died(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = prepare(queue, 4)
    record_file(queue, batch)
    assert queue.extend_batch(batch.id, ONE, LEASE)
    assert queue.next_batch(TWO, LEASE) is None
    expire(waiting)
    found = take(queue)
    assert (found.id, found.state, found.worker) == (batch.id, "preparing", TWO)
    assert (found.token, found.input_file) == (batch.token, f"file_{batch.id}")
    assert queue.submit_batch(batch.id, TWO, "batch_x", None, AT_ONCE)
    collect(queue, take(queue), claimed)
    assert fates(end(queue, batch)) == (4, 0, 0, 0)


def test_one_that_has_lost_a_batch_changes_nothing(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = prepare(queue, 4)
    expire(waiting)
    before = take(queue)
    for _ in range(2):  # while it is prepared by another one, and when that has ended it
        assert not queue.extend_batch(batch.id, ONE, LEASE)
        assert not queue.claim_batch_jobs(batch.id, ONE, 10, MODEL)
        assert not queue.record_batch_file(
            batch.id, ONE, "mine", texts=1, bytes=1, tokens=1, cost=1
        )
        assert not queue.submit_batch(batch.id, ONE, "mine", None, LATER)
        assert not queue.report_batch(batch.id, ONE, "mine", LATER)
        assert queue.release_batch_jobs(batch.id, ONE, to_wait=False) == 0
        assert queue.release_batch_jobs(batch.id, ONE, to_wait=False, job_ids=[claimed[0].id]) == 0
        assert queue.end_batch(batch.id, ONE, "failed") is None
        assert queue.batches() == [before]
        before = queue.end_batch(batch.id, TWO, "failed", "unreachable") or before
    assert before.ended_at
    assert backfill_of(queue).waiting == 6


def test_a_batch_that_is_given_back_is_looked_at_in_time(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, _ = prepare(queue)
    assert queue.report_batch(batch.id, ONE, None, LATER)
    assert queue.next_batch(TWO, LEASE) is None
    assert queue.next_batch(TWO, LEASE, batch.id)
    assert queue.report_batch(batch.id, TWO, "validating", AT_ONCE)
    assert queue.next_batch(ONE, LEASE, None, [batch.id]) is None
    assert take(queue).provider_state == "validating"
    assert queue.report_batch(batch.id, TWO, None, AT_ONCE)
    assert take(queue).provider_state == "validating"
    assert queue.extend_batch(batch.id, TWO, AT_ONCE)
    assert take(queue, ONE).id == batch.id


def test_the_one_that_has_waited_longest_is_taken_first(
    waiting: Database, queue: AdminQueue
) -> None:
    first, second = (submit(queue, 2)[0] for _ in range(2))
    assert take(queue).id == first.id
    assert queue.report_batch(first.id, TWO, "in_progress", AT_ONCE)
    assert [take(queue).id for _ in range(2)] == [second.id, first.id]


# -- collecting


def test_vectors_are_written_and_the_batch_ends(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue)
    collect(queue, take(queue), claimed)
    assert held(queue, batch, claimed) == []
    ended = end(queue, batch)
    assert fates(ended) == (6, 0, 0, 0)
    assert (ended.tokens, round(ended.cost or 0, 4)) == (18, 0.06)
    assert (ended.is_under_way, ended.lease_expires_at, ended.look_at) == (False, None, None)
    assert {status for _, status in jobs(waiting)} == {"completed"}
    assert value(waiting, "select count(*) from docs where embedding is null") == 0
    assert value(waiting, "select count(*) from embedding.batch_jobs") == 0
    assert queue.end_batch(batch.id, TWO, "completed") is None
    assert queue.next_batch(TWO, LEASE) is None


def test_a_collector_that_dies_is_followed_by_another_and_nothing_is_written_twice(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, claimed = submit(queue)
    collect(queue, take(queue, "dead"), claimed[:4])
    expire(waiting)
    take(queue)
    assert [job.id for job in held(queue, batch, claimed)] == [job.id for job in claimed[4:]]
    collect(queue, batch, claimed)
    assert fates(end(queue, batch)) == (6, 0, 0, 0)


CHANGES = {
    "edited": "update docs set body = 'edited' where id = 1",
    "deleted": "delete from docs where id = 1",
    "requeued": "select requeue_embeddings(null, only_record => '1')",
    "by hand": "update embedding_queue set status = 'pending' where record_id = '1'",
    "failed by hand": "update embedding_queue set status = 'failed', error_message = 'no'"
    " where record_id = '1'",
}
GONE = ("deleted", "failed by hand")


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_meanwhile_is_stale(
    waiting: Database, queue: AdminQueue, change: str
) -> None:
    batch, claimed = submit(queue)
    waiting.execute(CHANGES[change])
    take(queue)
    assert [job.id for job in held(queue, batch, claimed)] == [job.id for job in claimed[1:]]
    collect(queue, batch, claimed)
    ended = end(queue, batch)
    assert fates(ended) == ((5, 1, 0, 0) if "failed" in change else (5, 0, 1, 0))
    left = claim(queue)
    assert [job.record_id for job in left] == ([] if change in GONE else ["1"])


def test_an_edit_that_bypassed_the_triggers_is_refused_by_its_hash(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, claimed = submit(queue)
    waiting.execute("set session_replication_role = replica")
    waiting.execute("update docs set body = 'changed' where id = 1")
    waiting.execute("reset session_replication_role")
    take(queue)
    found = held(queue, batch, claimed)
    for job in found:
        job.content = "text"
    refused = queue.complete(MODEL, completions_of(found))
    assert [(each.job_id, each.reason) for each in refused] == [(found[0].id, "changed")]
    assert fates(end(queue, batch)) == (5, 0, 0, 1)
    assert [job.content for job in claim(queue)] == ["changed"]


def test_a_column_that_is_not_watched_any_more_leaves_a_batch_that_can_be_ended(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, claimed = submit(queue)
    waiting.execute("select unwatch_embeddings('docs', 'embedding')")
    found = take(queue)
    assert (found.target_id, found.table_name) == (None, "docs")
    assert held(queue, batch, claimed) == []
    assert fates(end(queue, batch)) == (0, 0, 6, 0)


def test_another_model_makes_all_of_it_stale(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue)
    waiting.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    take(queue)
    refused = queue.complete(MODEL, completions_of(held(queue, batch, claimed)))
    assert {each.reason for each in refused} <= {"other_model"}
    end(queue, batch)
    assert value(waiting, "select count(embedding) from docs") == 0
    assert value(waiting, "select count(*) from embedding_queue where status = 'pending'") == 6


def test_a_paused_column_is_collected(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue, 4)
    waiting.execute("update embedding_targets set enabled = false")
    collect(queue, take(queue), claimed)
    assert fates(end(queue, batch)) == (4, 0, 0, 0)
    assert queue.begin_batch(ONE, LEASE, MODEL) is None


def test_the_result_of_a_text_is_that_of_all_jobs_with_it(
    docs: Database, queue: AdminQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: an answer of the Data API has at most a thousand rows."""
    monkeypatch.setattr(batches, "MOST_ROWS", 3)
    docs.execute("alter table docs disable trigger user")
    docs.execute("insert into docs values (1, 'first')")
    docs.execute("insert into docs select i, 'same' from generate_series(2, 8) i")
    docs.execute("alter table docs enable trigger user")
    plan(queue)
    batch, claimed = submit(queue)
    asked = [job.id for job in claimed[:2]]
    found = queue.batch_jobs(batch.id, asked)
    assert [id for id, _ in found] == [asked[0]] + [asked[1]] * 7
    assert [job.id for _, job in found] == [job.id for job in claimed]
    job, again = found[0][1], claimed[0]
    assert (job.lease, job.content_hash) == (again.lease, again.content_hash)
    assert (job.table_name, job.record_id, job.target_id) == ("docs", "1", again.target_id)
    assert (job.model, job.dimensions, job.attempts) == (MODEL, 3, 0)
    assert job.truncate is again.truncate


def test_what_is_not_of_the_batch_is_not_found(waiting: Database, queue: AdminQueue) -> None:
    first, in_first = submit(queue, 3)
    _, in_second = submit(queue, 3)
    asked = [job.id for job in in_first + in_second]
    assert [id for id, _ in queue.batch_jobs(first.id, [*asked, 10**12])] == asked[:3]
    assert queue.batch_jobs(10**12, asked) == []


# -- giving jobs back


def test_jobs_are_given_back_to_wait_or_to_be_due(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue)
    take(queue)
    assert queue.release_batch_jobs(batch.id, TWO, to_wait=False, job_ids=[claimed[0].id]) == 1
    assert [queue.release_batch_jobs(batch.id, TWO, to_wait=True, most=3) for _ in range(3)] == [
        3,
        2,
        0,
    ]
    assert backfill_of(queue).waiting == 5
    [free] = claim(queue)
    assert free.id == claimed[0].id
    assert fates(end(queue, batch)) == (0, 0, 0, 6)


def test_a_job_that_is_given_back_is_neither_failed_nor_blamed(
    waiting: Database, queue: AdminQueue
) -> None:
    for number in range(8):  # more often than max_attempts
        batch, _ = submit(queue)
        take(queue)
        assert fates(end(queue, batch, "expired")) == (0, 0, 0, 6), number
    assert rows(
        waiting,
        "select distinct attempts, abandoned_claims, unwritten, error_class from embedding_queue",
    ) == [(0, 0, 0, None)]
    assert value(waiting, "select min(error_message) from embedding_queue") == (
        f"given back by batch {batch.id}"
    )


def test_a_job_that_was_completed_from_the_cache_is_no_part_of_the_batch(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, claimed = prepare(queue)
    assert embed(queue, claimed[:2]) == []
    ids = [job.id for job in claimed[:2]]
    assert queue.release_batch_jobs(batch.id, ONE, to_wait=False, job_ids=ids) == 0
    record_file(queue, batch)
    assert queue.submit_batch(batch.id, ONE, "batch_x", None, AT_ONCE)
    collect(queue, take(queue), claimed)
    assert fates(end(queue, batch)) == (4, 0, 0, 0)


def test_what_is_still_held_at_the_end_is_given_back(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue, 3)
    collect(queue, take(queue), claimed[:1])
    assert fates(end(queue, batch, "expired")) == (1, 0, 0, 2)
    assert backfill_of(queue).waiting == 5
    batch, claimed = submit(queue)
    take(queue)
    assert fates(end(queue, batch, "cancelled")) == (0, 0, 0, 5)
    assert due(waiting) == 5


def test_without_a_batch_backfill_nothing_waits(waiting: Database, queue: AdminQueue) -> None:
    batch, _ = submit(queue)
    assert queue.cancel_waiting(target_of(queue)) == 0
    take(queue)
    end(queue, batch, "expired")
    assert due(waiting) == 6


def test_a_job_that_is_locked_is_given_back_later(
    waiting: Database, queue: AdminQueue, connect: Connect
) -> None:
    """By a transaction that edits its row, and is rolled back."""
    batch, _ = submit(queue)
    take(queue)
    with connect() as other, other.transaction(force_rollback=True):
        other.execute("update docs set body = 'edited' where id = 1")
        assert fates(end(queue, batch, "cancelled")) == (0, 0, 0, 5)
        assert queue.next_batch(TWO, LEASE) is None
        assert due(waiting) == 5
    assert queue.next_batch(TWO, LEASE) is None
    assert due(waiting) == 6
    assert fates(queue.batches()[0]) == (0, 0, 0, 6)
    assert value(waiting, "select count(*) from embedding.batch_jobs") == 0


# -- the end


def test_the_provider_counts_what_was_paid(waiting: Database, queue: AdminQueue) -> None:
    """Stale results were paid for as well."""
    plan(queue, 5)
    batch, claimed = submit(queue)
    waiting.execute("delete from docs where id = 1")
    collect(queue, take(queue), claimed)
    ended = queue.end_batch(batch.id, TWO, "completed", tokens=700, cost=1.5)
    assert ended
    assert (ended.tokens, ended.cost) == (700, 1.5)
    assert backfill_of(queue).committed == 1.5
    assert rows(
        waiting,
        "select model, completed, failed, tokens, cost::float8, seconds from embedding_usage",
    ) == [(f"{MODEL} (batch)", 5, 0, 700, 1.5, 0)]
    assert queue.stats(timedelta(hours=1)).completed == 5
    assert queue.rate(MODEL) is None


def test_a_price_that_is_not_known_is_not_zero(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue)
    take(queue)
    found = held(queue, batch, claimed)
    assert queue.complete(MODEL, completions_of(found)) == []
    assert end(queue, batch).cost is None
    assert value(waiting, "select cost from embedding_usage") is None


def fail(queue: AdminQueue, error_class: str = "rate_limited") -> BatchBackfill:
    """Let an attempt to send a batch fail, and the pause after it end. Returns it in the pause."""
    batch, _ = prepare(queue)
    assert queue.end_batch(
        batch.id, ONE, "failed", error_class, "no", timedelta(minutes=1), 2_000_000
    )
    return backfill_of(queue)


def test_after_a_failure_the_next_batch_waits_longer_each_time(
    waiting: Database, queue: AdminQueue
) -> None:
    pauses = []
    for failures in range(1, 11):
        backfill = fail(queue)
        assert (backfill.failures, backfill.error_class, backfill.error_message) == (
            failures,
            "rate_limited",
            "no",
        )
        assert (backfill.waiting, backfill.most_tokens) == (6, 2_000_000)
        assert backfill.retry_at
        pauses.append((backfill.retry_at - queue.clock()).total_seconds())
        assert queue.begin_batch(ONE, LEASE, MODEL) is None
        waiting.execute("update embedding_batch_backfills set retry_at = clock_timestamp()")
    assert all(60 * 2**n - 5 < pause <= 90 * 2**n for n, pause in enumerate(pauses[:5]))
    assert 3590 < pauses[-1] <= 5400


def test_a_batch_that_succeeds_ends_the_failures(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = submit(queue, 3)
    fail(queue, "token_limit_exceeded")
    collect(queue, take(queue), claimed)
    assert end(queue, batch)
    backfill = backfill_of(queue)
    assert (backfill.failures, backfill.error_class, backfill.error_message) == (0, None, None)
    assert (backfill.retry_at, backfill.most_tokens) == (None, 2_000_000)
    assert queue.begin_batch(ONE, LEASE, MODEL)


def test_a_batch_that_ends_otherwise_lets_the_next_one_be_sent(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, _ = submit(queue, 3)
    fail(queue)
    take(queue)
    end(queue, batch, "expired")
    backfill = backfill_of(queue)
    assert (backfill.failures, backfill.error_class, backfill.retry_at) == (1, "rate_limited", None)


def test_who_asks_again_need_not_wait(waiting: Database, queue: AdminQueue) -> None:
    fail(queue)
    assert plan(queue) == 0
    assert (backfill_of(queue).retry_at, backfill_of(queue).failures) == (None, 1)


def test_a_backfill_that_begins_anew_has_spent_nothing(
    waiting: Database, queue: AdminQueue
) -> None:
    batch, claimed = submit(queue)
    collect(queue, take(queue), claimed)
    end(queue, batch)
    before = backfill_of(queue)
    assert round(before.committed, 4) == 0.06
    without_jobs(waiting, 2, first=7)
    assert plan(queue, 1) == 2
    after = backfill_of(queue)
    assert (after.committed, after.waiting, after.max_cost) == (0, 2, 1)
    assert after.requested_at > before.requested_at


def test_a_batch_without_a_text_leaves_no_trace(waiting: Database, queue: AdminQueue) -> None:
    batch = begin(queue)
    assert queue.end_batch(batch.id, ONE, "cancelled")
    assert (queue.batches(), backfill_of(queue).waiting) == ([], 6)


def test_the_latest_batches_of_a_column_stay(waiting: Database, queue: AdminQueue) -> None:
    waiting.execute(
        "insert into embedding_batches (target_id, table_name, embedding_column, model, state,"
        "                               error_class, ended_at)"
        " select id, 'docs', 'embedding', 'a:b', 'failed', 'rejected', now()"
        "   from embedding_targets, generate_series(1, 250)"
    )
    batch, _ = submit(queue)
    take(queue)
    end(queue, batch, "expired")
    left = queue.batches()
    assert (len(left), left[-1].id) == (200, batch.id)


# -- cancelling


def test_a_cancelled_batch_is_looked_at_at_once(waiting: Database, queue: AdminQueue) -> None:
    batch, claimed = prepare(queue)
    record_file(queue, batch)
    assert queue.submit_batch(batch.id, ONE, "batch_x", None, LATER)
    assert queue.next_batch(TWO, LEASE) is None
    assert queue.cancel_batch(batch.id, source="cli")
    assert queue.cancel_batch(batch.id, source="cli")
    found = take(queue)
    assert (found.id, found.state) == (batch.id, "submitted")
    assert found.cancel_requested_at
    collect(queue, batch, claimed[:2])
    assert fates(end(queue, batch, "cancelled")) == (2, 0, 0, 4)
    assert due(waiting) == 4
    [entry] = [entry for entry in queue.audit("docs") if entry.event == "batch_cancelled"]
    assert (entry.source, entry.figures) == ("cli", {"batch": batch.id})
    assert not queue.cancel_batch(batch.id)
    assert not queue.cancel_batch(10**12)


def test_the_leases_of_others_are_not_touched(waiting: Database, queue: AdminQueue) -> None:
    """Whatever a worker does whose own leases run out."""
    submit(queue, 3)
    waiting.execute("update docs set body = 'edited' where id = 6")
    assert len(claim(queue)) == 1
    waiting.execute(
        "update embedding_queue set lease_expires_at = now()"
        " where status = 'processing' and worker !~ '^batch'"
    )
    queue.deregister(SCOPE)
    assert [job.content for job in claim(queue)] == ["edited"]
    assert value(waiting, "select count(*) from embedding_queue where worker ~ '^batch'") == 3
