from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import LiteralString

import numpy as np
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import (
    SCOPE,
    SQLSTATES,
    claim,
    claim_one,
    complete,
    create_poison,
    expire_leases,
    insert,
    let_nothing_wait,
    poison_trigger,
    vector_of,
)
from worker.errors import Busy, SettingsError
from worker.queue import AdminQueue, Completion, Job, Refusal


def test_a_completion_writes_the_vector_and_what_it_was_made_from(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    assert queue.complete("test:model", [Completion(job, vector_of(job), 7) for job in jobs]) == []
    assert rows(docs, "select id, embedding::text from docs order by id") == [
        (1, "[1,1,0]"),
        (2, "[2,1,0]"),
    ]
    assert rows(
        docs,
        "select status, attempts, lease, model, tokens, content_hash = sha256('text 1'),"
        " completed_at is not null from embedding_queue where record_id = '1'",
    ) == [("completed", 0, None, "test:model", 7, True, True)]


def test_each_row_gets_its_own_values_exactly(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 3)
    apart = np.array([[0.1, -3e-30, 1 / 3], [0, 0, 0]], dtype=np.float32).T  # not side by side
    vectors = [
        np.array([1e30, -0.25, 7e-40], dtype=np.float32),
        apart[:, 0],
        np.array([1 / 7, 2, -0.0], dtype=">f4"),
    ]
    about = [(7, None, None), (None, 3, 1.25e-7), (2**31 - 1, None, 0.0)]
    jobs = sorted(claim(queue), key=lambda job: job.record_id)
    completions = [
        Completion(job, vector, *values)
        for job, vector, values in zip(jobs, vectors, about, strict=True)
    ]
    assert queue.complete("test:model", completions) == []
    written = rows(docs, "select embedding::real[] from docs order by id")
    assert [np.float32(vector).tolist() for (vector,) in written] == [
        vector.astype(np.float32).tolist() for vector in vectors
    ]
    assert (
        rows(docs, "select tokens, truncated_to, cost from embedding_queue order by record_id")
        == about
    )


def test_an_edit_during_embedding_discards_the_stale_vector(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update docs set body = 'new text'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert value(docs, "select embedding from docs") is None
    assert claim_one(queue).content == "new text"


def test_vectors_beside_one_that_is_refused_are_written_by_one_statement(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 4)
    jobs = [*claim(queue, 2), *claim(queue, 2)]  # with two leases
    docs.execute("update docs set body = 'new text' where id = 1")
    docs.execute("create sequence writes")
    docs.execute(
        "create function count_write() returns trigger language plpgsql as"
        " $$ begin perform nextval('public.writes'); return null; end $$"
    )
    docs.execute(
        "create trigger count_write after update on docs"
        " for each statement execute function count_write()"
    )
    assert [refusal.reason for refusal in complete(queue, jobs)] == ["lost"]
    assert value(docs, "select last_value from writes") == 1
    assert value(docs, "select count(*) from docs where embedding is not null") == 3


def test_an_edit_that_is_not_committed_yet_is_not_overtaken(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    """The lease still looks good: the writer's change to the queue does not show yet."""
    insert(docs, 1)
    job = claim_one(queue)
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set body = 'new text'")
        assert [refusal.reason for refusal in complete(queue, [job])] == ["locked"]
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert value(docs, "select embedding from docs") is None


def test_an_edit_that_bypassed_the_triggers_is_found_by_the_hash(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set body = 'new text'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["changed"]
    assert value(docs, "select embedding from docs") is None


def test_a_row_deleted_during_embedding_leaves_no_trace(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    docs.execute("delete from docs where id = 1")
    assert [refusal.reason for refusal in complete(queue, jobs)] == ["lost"]
    assert rows(docs, "select id, embedding is not null from docs") == [(2, True)]
    assert rows(docs, "select record_id, status from embedding_queue") == [("2", "completed")]


def test_a_row_that_left_the_filter_during_embedding_gets_no_vector(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 0')")
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update docs set views = 1")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert value(docs, "select embedding from docs") is None


def test_one_refused_job_does_not_hold_up_its_neighbours(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 3)
    jobs = claim(queue)
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set views = 1 where id = 2")
        [refusal] = complete(queue, jobs)
        assert refusal.reason == "locked"
        assert rows(docs, "select id from docs where embedding is not null order by 1") == [
            (1,),
            (3,),
        ]
    again = [job for job in jobs if job.id == refusal.job_id]
    assert complete(queue, again) == []
    assert value(docs, "select count(*) from docs where embedding is not null") == 3


@pytest.mark.contract
def test_writing_a_vector_waits_for_no_lock_and_makes_nobody_wait_for_the_model(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    writer = connect()
    writer.execute("set lock_timeout = '1ms'")
    writer.execute("update docs set views = 1")  # nothing of ours is locked while a model works
    with writer.transaction():
        writer.execute("lock table docs in access exclusive mode")
        with pytest.raises(Busy):
            complete(queue, [job])
    assert complete(queue, [job]) == []


@pytest.mark.over_a_connection
def test_no_transaction_is_open_between_claim_and_completion(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    claim_one(queue)
    assert rows(
        docs,
        "select state, xact_start from pg_stat_activity"
        " where application_name = 'tests' and datname = current_database()",
    ) == [("idle", None)]


def test_a_completion_whose_answer_was_lost_can_be_made_again(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    assert complete(queue, [job]) == []
    assert complete(queue, [job]) == []
    docs.execute("update docs set body = 'edited since'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]


def test_a_hand_made_pending_takes_the_fence_from_the_worker(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update embedding_queue set status = 'pending'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert claim_one(queue).attempts == 0


def test_a_text_given_by_hand_is_embedded_instead_of_the_row_and_then_forgotten(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    docs.execute("update embedding_queue set content = 'by hand'")
    job = claim_one(queue)
    assert job.content == "by hand"
    assert complete(queue, [job]) == []
    assert rows(docs, "select content, content_hash = sha256('by hand') from embedding_queue") == [
        (None, True)
    ]


@pytest.mark.parametrize("column_type", ["vector(3)", "halfvec(3)", "vector"])
def test_vectors_arrive_as_they_were_sent(
    db: Database, queue: AdminQueue, column_type: str
) -> None:
    db.execute(
        f"create table docs (id integer primary key, body text, embedding {column_type})".encode()
    )
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    insert(db, 1)
    vector = np.array([0.5, -0.25, 1 / 3], dtype=np.float32)
    assert complete(queue, claim(queue), vector) == []
    stored = np.array(value(db, "select embedding::vector::real[] from docs"))
    assert np.allclose(stored, vector, atol=2e-4 if "half" in column_type else 0)


@pytest.mark.contract
def test_a_vector_of_another_width_changes_nothing(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    with pytest.raises(SettingsError, match="expected 3 dimensions, not 2"):
        complete(queue, [job], np.array([1, 0], dtype=np.float32))
    assert complete(queue, [job]) == []


@pytest.mark.contract
def test_released_jobs_are_due_again_and_no_worse_for_it(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    queue.release(jobs, reason="the worker was stopped")
    assert (
        rows(docs, "select status, attempts, lease, error_message from embedding_queue")
        == [("pending", 0, None, "the worker was stopped")] * 2
    )
    assert [refusal.reason for refusal in complete(queue, jobs)] == ["lost", "lost"]
    queue.release(claim(queue), timedelta(hours=1))
    assert claim(queue) == []


def test_failed_jobs_keep_their_reason_until_they_are_requeued_or_edited(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    assert queue.fail(jobs, "too_long", "8610 tokens, 8192 are allowed") == 2
    assert claim(queue) == []
    assert (
        rows(docs, "select status, error_class, error_message from embedding_queue")
        == [("failed", "too_long", "8610 tokens, 8192 are allowed")] * 2
    )
    docs.execute("update docs set body = 'shorter' where id = 1")
    assert claim_one(queue).content == "shorter"
    assert queue.requeue(status="failed", error_class="too_long").requeued == 1
    assert claim_one(queue).record_id == "2"


def test_a_job_that_may_be_tried_again_fails_with_its_last_attempt(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("update embedding_targets set max_attempts = 2")
    insert(docs, 1)
    assert queue.fail(claim(queue), "changed", "once", timedelta(0)) == 0
    assert queue.fail(claim(queue), "changed", "twice", timedelta(0)) == 1
    assert rows(docs, "select status, error_message from embedding_queue") == [("failed", "twice")]


def test_a_lost_lease_can_neither_fail_nor_release_a_job(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update docs set body = 'new text'")
    assert queue.fail([job], "rejected", "stale") == 0
    queue.release([job], timedelta(hours=1))
    assert rows(docs, "select status, error_message from embedding_queue") == [("pending", None)]
    assert claim_one(queue).content == "new text"


def test_a_vector_of_a_model_that_the_target_has_no_more_is_refused(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update embedding_targets set model = 'another:model'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["other_model"]
    assert value(docs, "select embedding from docs") is None
    docs.execute("update embedding_targets set model = 'test:model'")
    assert complete(queue, [job]) == []


# -- rows that cannot be written


def reasons(refusals: Sequence[Refusal], jobs: Sequence[Job]) -> dict[str, str]:
    """Why records were refused."""
    records = {job.id: job.record_id for job in jobs}
    return {records[refusal.job_id]: refusal.reason for refusal in refusals}


@pytest.mark.parametrize("timing", ["before", "after", "deferred"])
def test_a_row_whose_trigger_raises_any_error_fails_alone(
    docs: Database, queue: AdminQueue, timing: str
) -> None:
    insert(docs, 5)
    docs.execute("update docs set body = 'poison ' || id where id in (2, 4)")
    poison_trigger(docs, SQLSTATES[0], timing)
    for sqlstate in SQLSTATES:
        create_poison(docs, sqlstate)
        docs.execute("update docs set embedding = null where id not in (2, 4)")
        docs.execute("update embedding_queue set status = 'pending'")
        jobs = claim(queue)
        refused = reasons(complete(queue, jobs), jobs)
        assert refused == {"2": "unwritable", "4": "unwritable"}, sqlstate
        written = rows(docs, "select id from docs where embedding is not null order by 1")
        assert written == [(1,), (3,), (5,)], sqlstate
        failed = (
            "select record_id, error_class, error_message from embedding_queue"
            " where status = 'failed' order by 1"
        )
        cause = f"SQLSTATE {sqlstate} in function public.poison"
        assert rows(docs, failed) == [("2", "unwritable", cause), ("4", "unwritable", cause)]
        assert value(docs, "select problem from embedding_targets") is None, sqlstate


@pytest.mark.parametrize("sqlstate", ["22012", "42704", "3F000", "40001", "57014"])
def test_a_row_whose_trigger_raises_an_error_fails_also_where_nothing_else_is_written(
    docs: Database, queue: AdminQueue, sqlstate: str
) -> None:
    insert(docs, 3)
    docs.execute("update docs set body = 'poison' where id = 2")
    poison_trigger(docs, sqlstate)
    jobs = [job for job in claim(queue) if job.record_id == "2"]
    assert reasons(complete(queue, jobs), jobs) == {"2": "unwritable"}
    assert value(docs, "select problem from embedding_targets") is None


def test_a_trigger_that_no_row_gets_past_for_want_of_a_function_sets_the_target_aside(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 3)
    jobs = claim(queue)
    poison_trigger(docs, "P0001")
    docs.execute("drop function poison")
    assert set(reasons(complete(queue, jobs), jobs).values()) == {"suspended"}
    assert "public.poison" in str(value(docs, "select problem from embedding_targets"))


def test_an_error_that_passes_is_nobodys_fault(docs: Database, queue: AdminQueue) -> None:
    """As a deadlock with a transaction of the application: of two tries, one goes through."""
    insert(docs, 1)
    docs.execute("create sequence tries")
    docs.execute(
        "create function falter() returns trigger language plpgsql as $$ begin"
        " if nextval('public.tries') = 1 then raise sqlstate '40P01'; end if;"
        " return new; end $$"
    )
    docs.execute(
        "create trigger falter before update on docs for each row execute function falter()"
    )
    assert complete(queue, claim(queue)) == []


def test_a_number_that_is_too_large_for_the_column_fails_its_row_alone(
    db: Database, queue: AdminQueue
) -> None:
    db.execute("create table docs (id bigint primary key, body text, embedding halfvec(3))")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    insert(db, 2)
    jobs = claim(queue)
    vectors = [np.array([1, 2, 1e6 if job.record_id == "2" else 3], np.float32) for job in jobs]
    refusals = queue.complete(
        "test:model",
        [Completion(job, vector, None) for job, vector in zip(jobs, vectors, strict=True)],
    )
    assert reasons(refusals, jobs) == {"2": "unwritable"}


CHANGES_ON_WRITE: dict[str, LiteralString] = {
    "before": "create function touch() returns trigger language plpgsql as"
    " $$ begin new.body := new.body || '!'; return new; end $$;"
    " create trigger touch before update on docs for each row execute function touch()",
    "after": "create function touch() returns trigger language plpgsql as"
    " $$ begin update public.docs set body = body || '!' where id = new.id; return null; end $$;"
    " create trigger touch after update of embedding on docs"
    " for each row execute function touch()",
    "queued again": "create function touch() returns trigger language plpgsql as"
    " $$ begin update public.embedding_queue set status = 'pending'"
    " where record_id = new.id::text; return null; end $$;"
    " create trigger touch after update of embedding on docs"
    " for each row execute function touch()",
    "dropped": "create function touch() returns trigger language plpgsql as"
    " $$ begin return null; end $$;"
    " create trigger touch before update on docs for each row execute function touch()",
}


@pytest.mark.parametrize("trigger", CHANGES_ON_WRITE.values(), ids=list(CHANGES_ON_WRITE))
def test_a_trigger_that_undoes_each_write_fails_the_row_and_leaves_no_wrong_vector(
    docs: Database, queue: AdminQueue, trigger: LiteralString
) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    docs.execute(trigger)
    assert set(reasons(complete(queue, jobs), jobs).values()) == {"unwritable"}
    assert rows(docs, "select body, embedding from docs order by id") == [
        ("text 1", None),
        ("text 2", None),
    ]
    assert claim(queue) == []


def test_a_text_given_by_hand_is_no_changed_text(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    docs.execute("update embedding_queue set content = 'by hand'")
    docs.execute(
        "create function note() returns trigger language plpgsql as"
        " $$ begin new.views := new.views + 1; return new; end $$"
    )
    docs.execute("create trigger note before update on docs for each row execute function note()")
    assert complete(queue, claim(queue)) == []


# -- what was embedded and not written


def test_a_row_that_left_the_filter_behind_the_triggers_gets_no_vector(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 0')")
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set views = 1")
    assert reasons(complete(queue, [job]), [job]) == {"1": "changed"}
    assert value(docs, "select embedding from docs") is None


def test_a_job_that_somebody_holds_is_locked(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    let_nothing_wait(docs)
    holder = connect()
    with holder.transaction():
        holder.execute("select from embedding_queue where record_id = '1' for update")
        assert reasons(complete(queue, jobs), jobs) == {"1": "locked"}
    assert complete(queue, jobs) == []


def test_jobs_that_go_back_come_due_at_different_times(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 50)
    queue.release(claim(queue), timedelta(minutes=10))
    least, most, different = rows(
        docs,
        "select extract(epoch from min(available_at) - now())::float,"
        " extract(epoch from max(available_at) - now())::float,"
        " count(distinct date_trunc('second', available_at)) from embedding_queue",
    )[0]
    assert 590 < least < most <= 900
    assert most - least > 150
    assert different > 25


LIMIT = 10  # twice max_attempts


@pytest.mark.contract
def test_a_job_that_is_embedded_again_and_again_and_never_written_is_failed(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    pauses = []
    for _ in range(LIMIT):
        queue.release(claim(queue), timedelta(seconds=1), "why", "locked", embedded=True)
        pauses.append(
            value(
                docs,
                "select extract(epoch from available_at - updated_at)::float from embedding_queue",
            )
        )
        docs.execute("update embedding_queue set available_at = now(), unwritten = unwritten")
    assert all(2**i <= pause <= 1.5 * 2**i + 0.1 for i, pause in enumerate(pauses[:8]))
    assert all(300 <= pause <= 450.1 for pause in pauses[9:])
    assert queue.claim(SCOPE, 1).settled == {"failed": 1}
    assert rows(docs, "select error_class, error_message from embedding_queue") == [
        ("unwritten", "embedded 10 times, never written: why")
    ]
    assert queue.requeue(status="failed").requeued == 1
    assert complete(queue, claim(queue)) == []


@pytest.mark.contract
def test_every_way_not_to_be_written_counts(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    docs.execute("update embedding_targets set max_attempts = 3")
    queue.release(claim(queue), reason="locked", embedded=True)
    queue.release(claim(queue), reason="not embedded")
    queue.fail(claim(queue), "changed", "changed", timedelta(0))
    claim(queue)
    expire_leases(docs)  # its worker was killed
    claim(queue)
    assert value(docs, "select unwritten from embedding_queue") == 3


RESETS: dict[str, LiteralString] = {
    "edit": "update docs set body = 'edited'",
    "requeue": "select requeue_embeddings('pending')",
    "by hand": "update embedding_queue set status = 'pending'",
    "reprocess": "select reprocess_embeddings('*')",
}


@pytest.mark.parametrize("reset", RESETS.values(), ids=list(RESETS))
def test_a_job_that_starts_over_may_be_embedded_as_often_again(
    docs: Database, queue: AdminQueue, reset: LiteralString
) -> None:
    insert(docs, 1)
    docs.execute("update embedding_queue set unwritten = 10, passed_over = 10")
    docs.execute(reset)
    assert rows(docs, "select unwritten, passed_over from embedding_queue") == [(0, 0)]
    assert complete(queue, claim(queue)) == []
