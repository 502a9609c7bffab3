from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import claim, claim_one, complete, insert, vector_of
from worker.errors import Busy, SettingsError
from worker.queue import Completion, OperatorQueue


def test_a_completion_writes_the_vector_and_what_it_was_made_from(
    docs: Database, queue: OperatorQueue
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


def test_an_edit_during_embedding_discards_the_stale_vector(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update docs set body = 'new text'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert value(docs, "select embedding from docs") is None
    assert claim_one(queue).content == "new text"


def test_an_edit_that_is_not_committed_yet_is_not_overtaken(
    docs: Database, connect: Callable[[], Database], queue: OperatorQueue
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
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set body = 'new text'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["changed"]
    assert value(docs, "select embedding from docs") is None


def test_a_row_deleted_during_embedding_leaves_no_trace(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 2)
    jobs = claim(queue)
    docs.execute("delete from docs where id = 1")
    assert [refusal.reason for refusal in complete(queue, jobs)] == ["lost"]
    assert rows(docs, "select id, embedding is not null from docs") == [(2, True)]
    assert rows(docs, "select record_id, status from embedding_queue") == [("2", "completed")]


def test_a_row_that_left_the_filter_during_embedding_gets_no_vector(
    docs: Database, queue: OperatorQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 0')")
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update docs set views = 1")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert value(docs, "select embedding from docs") is None


def test_one_refused_job_does_not_hold_up_its_neighbours(
    docs: Database, connect: Callable[[], Database], queue: OperatorQueue
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


def test_writing_a_vector_waits_for_no_lock_and_makes_nobody_wait_for_the_model(
    docs: Database, connect: Callable[[], Database], queue: OperatorQueue
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
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    claim_one(queue)
    assert rows(
        docs,
        "select state, xact_start from pg_stat_activity"
        " where application_name = 'tests' and datname = current_database()",
    ) == [("idle", None)]


def test_a_completion_whose_answer_was_lost_can_be_made_again(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    assert complete(queue, [job]) == []
    assert complete(queue, [job]) == []
    docs.execute("update docs set body = 'edited since'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]


def test_a_hand_made_pending_takes_the_fence_from_the_worker(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update embedding_queue set status = 'pending'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["lost"]
    assert claim_one(queue).attempts == 0


def test_a_text_given_by_hand_is_embedded_instead_of_the_row_and_then_forgotten(
    docs: Database, queue: OperatorQueue
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
    db: Database, queue: OperatorQueue, column_type: str
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


def test_a_vector_of_another_width_changes_nothing(docs: Database, queue: OperatorQueue) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    with pytest.raises(SettingsError, match="expected 3 dimensions, not 2"):
        complete(queue, [job], np.array([1, 0], dtype=np.float32))
    assert complete(queue, [job]) == []


def test_released_jobs_are_due_again_and_no_worse_for_it(
    docs: Database, queue: OperatorQueue
) -> None:
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
    docs: Database, queue: OperatorQueue
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
    assert queue.requeue(status="failed", error_class="too_long") == 1
    assert claim_one(queue).record_id == "2"


def test_a_job_that_may_be_tried_again_fails_with_its_last_attempt(
    docs: Database, queue: OperatorQueue
) -> None:
    docs.execute("update embedding_targets set max_attempts = 2")
    insert(docs, 1)
    assert queue.fail(claim(queue), "changed", "once", timedelta(0)) == 0
    assert queue.fail(claim(queue), "changed", "twice", timedelta(0)) == 1
    assert rows(docs, "select status, error_message from embedding_queue") == [("failed", "twice")]


def test_a_lost_lease_can_neither_fail_nor_release_a_job(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update docs set body = 'new text'")
    assert queue.fail([job], "rejected", "stale") == 0
    queue.release([job], timedelta(hours=1))
    assert rows(docs, "select status, error_message from embedding_queue") == [("pending", None)]
    assert claim_one(queue).content == "new text"


def test_a_vector_of_a_model_that_the_target_has_no_more_is_refused(
    docs: Database, queue: OperatorQueue
) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    docs.execute("update embedding_targets set model = 'another:model'")
    assert [refusal.reason for refusal in complete(queue, [job])] == ["other_model"]
    assert value(docs, "select embedding from docs") is None
    docs.execute("update embedding_targets set model = 'test:model'")
    assert complete(queue, [job]) == []
