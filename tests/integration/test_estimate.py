"""What there is to embed, told beforehand: counted, sampled, and nothing touched."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import claim, insert
from tests.integration.tables import Connect, Table, embed, embed_all
from worker.queue import AdminQueue, Estimate

MODEL = "test:model"


def estimates(queue: AdminQueue, *, missing: bool = False) -> list[Estimate]:
    return queue.estimate(MODEL, None, None, missing)


def estimate(queue: AdminQueue, *, missing: bool = False) -> Estimate:
    [found] = estimates(queue, missing=missing)
    return found


def from_before(db: Database, *texts: str | None) -> Table:
    """A table that is watched since after its rows were written."""
    table = Table(db)
    table.create()
    for key, text in enumerate(texts, start=1):
        table.insert(key, text)
    table.watch()
    return table


@pytest.mark.contract
def test_what_is_due_is_counted_with_its_texts(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'zwölf')")
    found = estimate(queue)
    assert sorted(zip(found.texts, found.bytes, strict=True)) == [("one", 3), ("zwölf", 6)]
    assert (found.table_name, found.embedding_column) == ("docs", "embedding")
    assert (found.model, found.dimensions, found.row_count) == (MODEL, 3, 2)


def test_only_the_beginning_of_a_long_text_is_given_with_the_length_of_all_of_it(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("insert into docs values (1, repeat('ö', 30000))")
    found = estimate(queue)
    assert (found.bytes, found.texts) == ([60_000], ["ö" * 20_000])


def test_what_a_claim_would_settle_without_a_model_is_counted_and_has_no_text(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 0')")
    insert(docs, 4)
    assert embed_all(queue)
    docs.execute("update embedding_queue set status = 'pending'")  # 1, 2: nothing has changed
    docs.execute("update embedding_queue set model = 'test:other' where record_id = '2'")
    docs.execute("update docs set views = 1 where id = 3")
    docs.execute("update docs set body = e' \u00a0\\n' where id = 4")
    docs.execute("insert into docs values (5, null)")
    docs.execute("alter table docs disable trigger user")
    docs.execute("insert into docs values (6, 'without its trigger')")
    docs.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column, content)"
        " values ('docs', '6', 'embedding', 'given by hand'), ('docs', '7', 'embedding', 'gone')"
    )
    found = estimate(queue)
    assert found.row_count == 7
    assert sorted(found.texts) == ["given by hand", "text 2"]
    assert sorted(job.content for job in claim(queue)) == ["given by hand", "text 2"]


def test_only_what_a_claim_would_find_is_counted(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 6)
    embed(queue, claim(queue, 1))
    queue.fail(claim(queue, 1), "rejected", "too long")
    claim(queue, 2)
    docs.execute("update embedding_queue set lease_expires_at = now() where record_id = '4'")
    docs.execute(
        "update embedding_queue set available_at = now() + interval '1 hour' where record_id = '5'"
    )
    found = estimate(queue)
    assert (found.row_count, sorted(found.texts)) == (2, ["text 4", "text 6"])
    assert value(docs, "select count_due_embeddings()") == 2


def test_rows_that_a_backfill_would_enqueue_are_counted_instead(
    db: Database, queue: AdminQueue
) -> None:
    from_before(db, "one", "two", None, "four", "five")
    target = queue.target("docs", "embedding")
    assert estimate(queue).row_count == 0
    found = estimate(queue, missing=True)
    assert (found.row_count, sorted(found.texts)) == (5, ["five", "four", "one", "two"])

    assert queue.backfill(target, 2) == 2
    assert sorted(estimate(queue).texts) == ["one", "two"]
    found = estimate(queue, missing=True)
    assert (found.row_count, sorted(found.texts)) == (3, ["five", "four"])
    embed_all(queue)
    db.execute("update docs set embedding = null where id = 1")
    db.execute("update docs set embedding = '[1,2,3]' where id = 5")
    found = estimate(queue, missing=True)
    assert (found.row_count, sorted(found.texts)) == (3, ["four", "one"])
    enqueued = 0
    while batch := queue.backfill(target, 2):
        enqueued += batch
    assert enqueued == 3
    assert estimate(queue, missing=True).row_count == 0


def test_the_sample_is_as_large_as_asked_for_and_the_same_again(
    db: Database, queue: AdminQueue
) -> None:
    from_before(db, *[f"text {i}" for i in range(60)])
    for missing in (True, False):
        call: LiteralString = (
            "select row_count, texts from estimate_embeddings('a:b', missing => %s, sample => %s)"
        )
        [(count, texts)] = rows(db, call, missing, 10)
        assert (count, len(set(texts))) == (60, 10)
        assert texts != [f"text {i}" for i in range(10)]
        assert rows(db, call, missing, 10) == [(count, texts)]
        assert rows(db, call, missing, 0) == [(60, [])]
        db.execute("select backfill_embeddings('docs', 'embedding')")


@pytest.mark.contract
def test_an_estimate_is_narrowed_down_to_a_table_and_a_column(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'views', 'other', 'a:b', dimensions => 4)")
    notes = Table(docs, "app", "notes")
    notes.create()
    notes.watch()
    docs.execute("insert into docs values (1, 'one', 5)")
    asked = [
        [
            (found.table_name, found.embedding_column, found.model, found.row_count)
            for found in queue.estimate(MODEL, table, column, False)
        ]
        for table, column in (("docs", None), (None, "other"), ("docs", "none"))
    ]
    other = ("docs", "other", "a:b", 1)
    assert asked == [[("docs", "embedding", MODEL, 1), other], [other], []]
    assert len(estimates(queue)) == 3
    docs.execute("update embedding_targets set problem = 'broken' where table_name = 'app.notes'")
    docs.execute("update embedding_targets set enabled = false where embedding_column = 'other'")
    assert [found.embedding_column for found in estimates(queue)] == ["embedding"]


# -- what cannot be read


def test_a_row_whose_source_raises_is_left_out(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 5)
    docs.execute("select watch_embeddings('docs', '(6 / (id - 3))::text', 'embedding')")
    assert sorted(estimate(queue).texts) == ["-3", "-6", "3", "6"]
    assert estimate(queue).row_count == 5


def test_a_table_that_cannot_be_read_does_not_hide_the_others(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    notes = Table(docs, name="notes")
    notes.create()
    notes.insert(1, "from before")
    notes.watch()
    notes.insert(2, "a note")
    docs.execute("alter table docs rename body to text")
    assert [
        (found.table_name, found.row_count, found.bytes, found.texts) for found in estimates(queue)
    ] == [("docs", 2, [], []), ("notes", 1, [6], ["a note"])]
    docs.execute("drop table docs")
    assert [
        (found.table_name, found.row_count, found.texts) for found in estimates(queue, missing=True)
    ] == [("docs", None, []), ("notes", 1, ["from before"])]


def test_a_locked_table_is_not_waited_for_long(
    docs: Database, connect: Connect, queue: AdminQueue
) -> None:
    insert(docs, 3)
    notes = Table(docs, name="notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a note")
    holding = connect()
    with holding.transaction():
        holding.execute("lock table docs")
        assert [(found.row_count, found.texts) for found in estimates(queue)] == [
            (3, []),
            (1, ["a note"]),
        ]
        assert [found.row_count for found in estimates(queue, missing=True)] == [None, 0]


# -- what it leaves as it was


EVERYTHING: LiteralString = (
    "select (select array_agg((job.ctid, job) order by id)::text from embedding_queue as job),"
    " (select array_agg((target.ctid, target) order by id)::text from embedding_targets as target),"
    " (select array_agg((docs.ctid, docs) order by id)::text from docs),"
    " (select last_value from embedding.claim_rotation)"
)


@pytest.mark.parametrize("missing", [True, False])
def test_an_estimate_claims_nothing_and_writes_nothing(
    db: Database, queue: AdminQueue, missing: bool
) -> None:
    from_before(db, "one", "two")
    db.execute("insert into docs values (3, 'three'), (4, 'four'), (5, 'five')")
    db.execute("delete from docs where id = 5")
    claim(queue, 1)
    before = rows(db, EVERYTHING)
    assert estimate(queue, missing=missing).texts
    with db.transaction():
        db.execute("set transaction read only")
        db.execute("select * from estimate_embeddings('a:b', missing => %s)", [missing])
    assert rows(db, EVERYTHING) == before
