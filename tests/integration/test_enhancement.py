"""A chat model has to enhance texts: what a claim says of it, and what a completion records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any, LiteralString

import numpy as np
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, poison_trigger
from tests.integration.tables import refusal
from tests.integration.test_counts import wrong_counts
from worker.queue import (
    AdminQueue,
    Chunk,
    ChunkText,
    Completion,
    DocumentCompletion,
    Enhanced,
    Enhancement,
    Job,
    Place,
    Refusal,
)

MODEL = "test:model"
HOUR = timedelta(hours=1)
FULL_RECORD: LiteralString = (
    "select status, error_class, error_message, unenhanced, content_hash, model, tokens,"
    " cost, lease from embedding_queue order by table_name"
)
MESSAGE = "embedded without the text of its chat model: timed_out"


def create_enhanced(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("create table manuals (id bigint primary key, body text)")
    for options in ("'docs', 'body', 'embedding'", "'manuals', 'body', chunks => true"):
        db.execute(
            f"select watch_embeddings({options}, dimensions => 3, enhance => 'test:chat',"
            " enhance_prompt => 'Describe it.', enhance_on_failure => 'raw')".encode()
        )


FIRST_TABLES = {"texts": create_enhanced}


@pytest.fixture
def texts(db: Database) -> Database:
    """A watched table `docs` and one in chunks, `manuals`, both enhanced and without rows."""
    return db


def insert(db: Database, count: int = 1) -> None:
    for table in ("docs", "manuals"):
        db.execute(
            f"insert into {table} select i, 'text ' || i from generate_series(1, %s) i".encode(),
            [count],
        )


def claim_both(queue: AdminQueue) -> list[Job]:
    """All jobs that are due, those of `docs` first. A claim serves one table."""
    jobs: list[Job] = []
    while taken := queue.claim(SCOPE, 100):
        jobs += taken.jobs
    return sorted(jobs, key=lambda job: (job.table_name, job.record_id))


def complete(
    queue: AdminQueue,
    jobs: Sequence[Job],
    unenhanced: str | None = None,
    again_in: timedelta | None = None,
) -> list[Refusal]:
    """Complete jobs, with marks or without. A text in chunks is one chunk."""
    return complete_each(queue, [(job, unenhanced, again_in) for job in jobs])


def complete_each(
    queue: AdminQueue, marked: Sequence[tuple[Job, str | None, timedelta | None]]
) -> list[Refusal]:
    vector = np.array([1, 2, 3], dtype=np.float32)
    whole = [
        Completion(unenhanced_job(job, unenhanced, again_in), vector, 7, None, 0.5)
        for job, unenhanced, again_in in marked
        if not job.chunking
    ]
    refused = queue.complete(MODEL, whole) if whole else []
    documents = []
    for job, unenhanced, again_in in marked:
        if job.chunking:
            text = job.content.partition("\x1f")[2]
            place = Place(sha256(text.encode()).digest(), 0, len(text), None, None)
            refused += queue.stage(
                MODEL, [Completion(Chunk.of(job, place, ChunkText(None, text)), vector, 7)]
            )
            documents.append(DocumentCompletion(job, [place], 1, 7, 0.5, unenhanced, again_in))
    return refused + (queue.complete_documents(MODEL, documents) if documents else [])


def unenhanced_job(job: Job, failure: str | None, again_in: timedelta | None) -> Job:
    """A job for which the chat model failed, if it did."""
    return job.with_enhancement(Enhanced(None, 0.0, None, failure, again_in)) if failure else job


def come_due(db: Database) -> None:
    db.execute("update embedding_queue set available_at = now() where status = 'pending'")


def marks(db: Database) -> list[tuple[Any, ...]]:
    return rows(
        db,
        "select status, unenhanced from embedding_queue order by table_name, record_id",
    )


# -- the claim


def test_a_claim_says_it_as_it_is_when_the_job_is_leased(texts: Database) -> None:
    """The target may be changed after a claim has chosen it, and before it has locked a job."""
    insert(texts)
    texts.execute(
        "create table chosen as select * from embedding_targets where table_name = 'docs'"
    )
    texts.execute("select watch_embeddings('docs', null, 'embedding', enhance_prompt => 'Other.')")
    prompt = value(
        texts,
        "select claimed.enhancement ->> 'prompt' from chosen, embedding.claim("
        " jsonb_populate_record(null::embedding_targets, to_jsonb(chosen)),"
        " array(select job.id from embedding_queue as job where job.target_id = chosen.id),"
        " 'a', '1 minute', 'test:model') as claimed",
    )
    assert prompt == "Other."


def test_a_claim_says_how_a_text_is_enhanced(texts: Database, queue: AdminQueue) -> None:
    insert(texts)
    for job in claim_both(queue):
        assert job.enhancement == Enhancement("test:chat", "Describe it.", "raw")
        assert not job.unenhanced


def test_a_text_without_a_chat_model_has_no_enhancement(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'text')")
    [job] = claim(queue)
    assert (job.enhancement, job.unenhanced) == (None, False)


# -- the completion


def test_a_text_that_was_not_enhanced_is_embedded_again_later(
    texts: Database, queue: AdminQueue
) -> None:
    insert(texts)
    first = claim_both(queue)
    assert complete(queue, first, "timed_out", HOUR) == []
    assert rows(texts, FULL_RECORD) == [
        ("pending", "not_enhanced", MESSAGE, "timed_out", job.content_hash, MODEL, 7, 0.5, None)
        for job in first
    ]
    later = "available_at between now() + interval '59 min' and now() + interval '61 min'"
    assert value(texts, f"select bool_and({later}) from embedding_queue") is True
    assert value(texts, "select count(embedding) from docs") == 1
    assert value(texts, "select count(*) from manuals_passages") == 1
    assert wrong_counts(texts) == []
    assert claim_both(queue) == []

    come_due(texts)
    again = claim_both(queue)
    assert [(job.content, job.unenhanced) for job in again] == [
        (job.content, True) for job in first
    ]
    assert complete(queue, again) == []
    assert rows(texts, FULL_RECORD) == [
        ("completed", None, None, None, job.content_hash, MODEL, 7, 0.5, None) for job in first
    ]
    assert wrong_counts(texts) == []
    texts.execute("update embedding_queue set status = 'pending'")
    assert claim_both(queue) == []  # unchanged


def test_without_a_time_it_is_completed_and_marked(texts: Database, queue: AdminQueue) -> None:
    insert(texts)
    first = claim_both(queue)
    assert complete(queue, first, "rejected") == []
    assert rows(texts, FULL_RECORD) == [
        ("completed", None, None, "rejected", job.content_hash, MODEL, 7, 0.5, None)
        for job in first
    ]
    assert wrong_counts(texts) == []
    assert claim_both(queue) == []
    texts.execute("update embedding_queue set status = 'pending'")
    again = claim_both(queue)
    assert [job.unenhanced for job in again] == [True, True]
    assert complete(queue, again) == []
    assert marks(texts) == [("completed", None)] * 2


def test_a_time_without_a_mark_means_nothing(texts: Database, queue: AdminQueue) -> None:
    insert(texts)
    assert complete(queue, claim_both(queue), None, HOUR) == []
    assert marks(texts) == [("completed", None)] * 2


@pytest.mark.contract
def test_each_job_has_its_own_mark_also_beside_one_that_is_refused(
    texts: Database, queue: AdminQueue
) -> None:
    insert(texts, 4)
    jobs = claim_both(queue)
    for table in ("docs", "manuals"):
        texts.execute(f"update {table} set body = 'edited' where id = 2".encode())
    own = [(None, HOUR), ("rejected", None), ("timed_out", HOUR), ("rejected", None)] * 2
    refused = complete_each(queue, [(job, *mark) for job, mark in zip(jobs, own, strict=True)])
    assert {(refusal.job_id, refusal.reason) for refusal in refused} == {
        (jobs[1].id, "lost"),
        (jobs[5].id, "lost"),
    }
    assert (
        marks(texts)
        == [
            ("completed", None),
            ("pending", None),
            ("pending", "timed_out"),
            ("completed", "rejected"),
        ]
        * 2
    )


def test_halving_keeps_the_marks_apart(texts: Database, queue: AdminQueue) -> None:
    insert(texts, 4)
    jobs = claim_both(queue)
    texts.execute("alter table manuals_chunk_places add check (id <> 3)")
    texts.execute("alter table docs add check (id <> 3 or embedding is null)")
    own = [(None, None), ("rejected", None), (None, None), ("timed_out", HOUR)] * 2
    refused = complete_each(queue, [(job, *mark) for job, mark in zip(jobs, own, strict=True)])
    assert [(refusal.job_id, refusal.reason) for refusal in refused] == [
        (jobs[2].id, "unwritable"),
        (jobs[6].id, "unwritable"),
    ]
    assert (
        marks(texts)
        == [
            ("completed", None),
            ("completed", "rejected"),
            ("failed", None),
            ("pending", "timed_out"),
        ]
        * 2
    )


def test_marks_and_times_of_another_length_are_refused(db: Database) -> None:
    for mark in ("unenhanced => '{rejected}'", "again_in => '{1 hour}'"):
        cause, _ = refusal(
            db, "select complete_embeddings('{}', '{}', '{}', '{}', 'a:b', " + mark + ")"
        )
        assert cause == (
            "ids, leases, hashes, vectors, tokens, truncated_to, costs, unenhanced and again_in"
            " must be of one length"
        )


def test_an_answer_that_was_lost_does_no_harm(texts: Database, queue: AdminQueue) -> None:
    insert(texts)
    jobs = claim_both(queue)
    assert complete(queue, jobs, "timed_out", HOUR) == []
    before = rows(texts, FULL_RECORD)
    whole, document = jobs
    assert complete(queue, [whole], "timed_out", HOUR) == [Refusal(whole.id, "lost")]
    assert set(complete(queue, [document], "timed_out", HOUR)) == {Refusal(document.id, "lost")}
    assert rows(texts, FULL_RECORD) == before
    assert value(texts, "select count(*) from manuals_passages") == 1


# -- what becomes of a mark


@pytest.fixture
def marked(texts: Database, queue: AdminQueue) -> Database:
    """The tables `docs` and `manuals`, each with a row whose job is marked and pending again."""
    insert(texts)
    assert complete(queue, claim_both(queue), "timed_out", HOUR) == []
    return texts


def test_an_edit_leaves_the_mark_to_the_next_completion(
    marked: Database, queue: AdminQueue
) -> None:
    for table in ("docs", "manuals"):
        marked.execute(f"update {table} set body = 'edited'".encode())
    assert marks(marked) == [("pending", "timed_out")] * 2
    jobs = claim_both(queue)
    assert [job.unenhanced for job in jobs] == [False] * 2
    assert complete(queue, jobs) == []
    assert marks(marked) == [("completed", None)] * 2


def test_an_edit_there_and_back_finds_the_text_still_unenhanced(
    marked: Database, queue: AdminQueue
) -> None:
    for body in ("edited", "text 1"):
        for table in ("docs", "manuals"):
            marked.execute(f"update {table} set body = '{body}'".encode())
    assert [job.unenhanced for job in claim_both(queue)] == [True] * 2


def test_a_text_that_is_taken_away_takes_the_mark_along(
    marked: Database, queue: AdminQueue
) -> None:
    for table in ("docs", "manuals"):
        marked.execute(f"update {table} set body = ''".encode())
    assert claim_both(queue) == []
    assert marks(marked) == [("skipped", None)] * 2
    assert value(marked, "select count(embedding) from docs") == 0
    assert wrong_counts(marked) == []


def test_a_release_keeps_the_mark(marked: Database, queue: AdminQueue) -> None:
    come_due(marked)
    queue.release(claim_both(queue), timedelta(0), "the chat model is out", "unavailable")
    assert marks(marked) == [("pending", "timed_out")] * 2
    assert [job.unenhanced for job in claim_both(queue)] == [True] * 2


def test_a_requeued_text_is_embedded_again(marked: Database, queue: AdminQueue) -> None:
    assert queue.requeue(status=None).requeued == 2
    jobs = claim_both(queue)
    assert [job.unenhanced for job in jobs] == [False] * 2
    assert complete(queue, jobs) == []
    assert marks(marked) == [("completed", None)] * 2


@pytest.mark.contract
def test_a_key_that_moves_leaves_the_mark_behind(marked: Database, queue: AdminQueue) -> None:
    marked.execute("insert into docs values (2, 'text 2')")
    assert complete(queue, claim_both(queue)) == []
    marked.execute("update docs set id = id + 1 where id = 2")
    marked.execute("update docs set id = id + 1 where id = 1")
    found = "select record_id, unenhanced from embedding_queue where table_name = 'docs' order by 1"
    assert rows(marked, found) == [("2", None), ("3", None)]


def test_a_text_given_by_hand_stays_until_it_is_enhanced(
    texts: Database, queue: AdminQueue
) -> None:
    insert(texts)
    texts.execute("update embedding_queue set content = 'given by hand'")
    contents = ["given by hand", "\x1fgiven by hand"]
    jobs = claim_both(queue)
    assert [job.content for job in jobs] == contents
    assert complete(queue, jobs, "timed_out", timedelta(0)) == []
    jobs = claim_both(queue)
    assert [(job.content, job.unenhanced) for job in jobs] == [(text, True) for text in contents]
    assert complete(queue, jobs) == []
    assert value(texts, "select count(content) from embedding_queue") == 0


def test_a_marked_text_is_estimated_and_not_rechecked(marked: Database, queue: AdminQueue) -> None:
    marked.execute("update embedding_queue set status = 'completed'")
    assert queue.recheck(None, None, 0, dry_run=True).changed == 0
    marked.execute("update embedding_queue set status = 'pending'")
    found = queue.estimate(MODEL, None, None, False)
    assert [(each.row_count, len(each.texts)) for each in found] == [(1, 1)] * 2


def test_a_row_that_fails_at_its_next_write_keeps_its_mark(
    marked: Database, queue: AdminQueue
) -> None:
    come_due(marked)
    marked.execute("update docs set body = 'poison'")
    jobs = [job for job in claim_both(queue) if job.table_name == "docs"]
    poison_trigger(marked, "P0001")
    assert complete(queue, jobs) == [Refusal(jobs[0].id, "unwritable")]
    assert marks(marked)[0] == ("failed", "timed_out")
