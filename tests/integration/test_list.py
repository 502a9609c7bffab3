"""The jobs one by one, with the beginnings of their texts."""

from __future__ import annotations

import pytest

from tests.conftest import Database, rows
from tests.integration.jobs import SQLSTATES, claim, create_poison, insert
from tests.integration.tables import Connect, Table, acting_as, embed, refusal
from worker.queue import AdminQueue, ListedJob

ALL = ("processing", "pending", "failed")


def listed(
    queue: AdminQueue, *statuses: str, table: str | None = None, limit: int = 20
) -> list[ListedJob]:
    return queue.list_jobs(statuses or ALL, table, None, limit)


def previews(jobs: list[ListedJob]) -> list[tuple[str, str | None]]:
    return [(job.record_id, job.preview) for job in jobs]


def test_what_is_not_done_is_listed_state_by_state_with_its_text(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 5)
    embed(queue, claim(queue, 1))
    queue.fail(claim(queue, 1), "rejected", "not this one")
    [held] = claim(queue, 1)
    found = listed(queue)
    assert [(job.record_id, job.status, job.preview) for job in found] == [
        (held.record_id, "processing", held.content),
        ("4", "pending", "text 4"),
        ("5", "pending", "text 5"),
        ("2", "failed", "text 2"),
    ]
    assert (found[0].worker, found[0].attempts) == ("test", 0)
    assert found[0].lease_expires_at
    assert found[0].lease_expires_at > found[0].updated_at
    assert (found[3].error_class, found[3].error_message) == ("rejected", "not this one")
    assert (found[3].attempts, found[3].lease_expires_at) == (1, None)
    assert previews(listed(queue, "failed", "pending", limit=2)) == [
        ("2", "text 2"),
        ("4", "text 4"),
    ]


def test_the_pending_come_by_priority_and_due_time(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 4)
    docs.execute(
        "update embedding_queue set available_at = now() - interval '1 hour' where record_id = '3'"
    )
    docs.execute("update embedding_queue set priority = 5 where record_id = '4'")
    docs.execute(
        "update embedding_queue set available_at = now() + interval '1 hour' where record_id = '1'"
    )
    assert [job.record_id for job in listed(queue, "pending")] == ["4", "3", "2", "1"]


def test_the_failed_come_by_class_the_latest_first_however_few_are_asked_for(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 4)
    for error_class in ("unreadable", "rejected", "rejected", "rejected"):
        queue.fail(claim(queue, 1), error_class, "no")
    assert [job.record_id for job in listed(queue, "failed")] == ["4", "3", "2", "1"]
    assert [job.record_id for job in listed(queue, "failed", limit=2)] == ["4", "3"]


@pytest.mark.contract
def test_a_list_is_narrowed_down_to_a_table(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    notes = Table(docs, "app", "notes")
    notes.create()
    notes.watch()
    notes.insert(7, "a note")
    assert len(listed(queue)) == 2
    assert previews(listed(queue, table="app.notes")) == [("7", "a note")]
    assert queue.list_jobs(ALL, None, "none", 20) == []


@pytest.mark.contract
def test_a_preview_is_a_beginning_and_what_was_given_by_hand_goes_first(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs values (1, repeat('ö', 30000)), (2, null)")
    docs.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column, content)"
        " values ('docs', '9', 'embedding', 'by hand')"
    )
    assert previews(listed(queue)) == [("1", "ö" * 200), ("2", None), ("9", "by hand")]


def test_a_text_that_cannot_be_read_is_null_and_hides_no_other(
    docs: Database, connect: Connect, queue: AdminQueue
) -> None:
    insert(docs, 5)
    docs.execute("select watch_embeddings('docs', '(6 / (id - 3))::text', 'embedding')")
    assert previews(listed(queue)) == [
        ("1", "-3"),
        ("2", "-6"),
        ("3", None),
        ("4", "6"),
        ("5", "3"),
    ]
    holding = connect()
    with holding.transaction():
        holding.execute("lock table docs")
        assert {preview for _, preview in previews(listed(queue))} == {None}
    docs.execute("update embedding_targets set enabled = false")
    assert {preview for _, preview in previews(listed(queue))} == {None}
    docs.execute("update embedding_targets set enabled = true")
    docs.execute("drop table docs")
    assert {preview for _, preview in previews(listed(queue))} == {None}


def test_a_row_that_raises_any_error_hides_no_other(docs: Database, queue: AdminQueue) -> None:
    create_poison(docs, SQLSTATES[0])
    docs.execute("select watch_embeddings('docs', 'public.poison(body)', 'embedding')")
    insert(docs, 3)
    docs.execute("update docs set body = 'poison' where id = 2")
    for sqlstate in SQLSTATES:
        create_poison(docs, sqlstate)
        shown = dict(previews(listed(queue)))
        assert shown == {"1": "text 1", "2": None, "3": "text 3"}, sqlstate
        found = queue.reprocess("text*", None, None, 0, dry_run=True)
        assert found.matched == 2, sqlstate
        [estimate] = queue.estimate("test:model", None, None, missing=False)
        assert sorted(estimate.texts) == ["text 1", "text 3"], sqlstate


def test_only_what_is_not_done_can_be_asked_for(docs: Database, queue: AdminQueue) -> None:
    cause, hint = refusal(docs, "select * from list_embeddings(array['completed'])")
    assert cause == "jobs that are completed are not listed"
    assert hint == "Ask for pending, processing or failed."


def test_a_worker_may_list_as_it_may_claim_and_nothing_is_written(docs: Database) -> None:
    insert(docs, 2)
    with acting_as(docs, "embedding_worker"), docs.transaction():
        docs.execute("set transaction read only")
        found = rows(docs, "select record_id, preview from list_embeddings()")
    assert found == [("1", "text 1"), ("2", "text 2")]
