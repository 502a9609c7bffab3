"""Records whose text or id matches a pattern are embedded again."""

from __future__ import annotations

import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import claim, complete, insert
from tests.integration.tables import Connect, Table, acting_as, embed_all
from worker.errors import Busy, SettingsError, StatementTimeout
from worker.queue import AdminQueue
from worker.queue.functions import STATEMENT_TIMEOUTS


def reprocess(
    queue: AdminQueue, pattern: str, table: str | None = None, *, dry_run: bool = False
) -> int:
    """How many matched, in all of the queue."""
    matched, after = 0, 0
    while True:
        stretch = queue.reprocess(pattern, table, None, after, dry_run=dry_run)
        matched += stretch.matched
        if stretch.looked_to is None:
            return matched
        after = stretch.looked_to


def pending(db: Database) -> list[str]:
    found = rows(
        db,
        "select record_id from embedding_queue where status = 'pending' and attempts = 0"
        " and content_hash is null and lease is null order by id",
    )
    return [record for (record,) in found]


@pytest.fixture
def embedded(docs: Database, queue: AdminQueue) -> Database:
    """Four documents that have their vectors."""
    docs.execute(
        "insert into docs values (1, 'a ship in the harbour'), (2, e'soup\\nwith beans'),"
        " (3, '50%_off \\ today'), (4, 'Ünïcode')"
    )
    assert len(embed_all(queue)) == 4
    return docs


def test_a_text_in_chunks_is_matched_without_its_context(
    manuals: Database, queue: AdminQueue
) -> None:
    manuals.execute("select backfill_embeddings('docs', 'embedding')")
    patterns = ("one two one", "*one", "First*", "~^one$")
    assert [reprocess(queue, pattern, dry_run=True) for pattern in patterns] == [1, 2, 0, 1]
    assert [job.preview for job in queue.list_jobs(("pending",), None, None, 2)] == [
        "one two one",
        "one",
    ]


@pytest.mark.parametrize(
    ("pattern", "records"),
    [
        ("*harbour*", ["1"]),
        ("harbour", []),  # a glob is of the whole
        ("soup*beans", ["2"]),
        ("?n?cod?", ["4"]),
        ("50%_off \\ *", ["3"]),
        ("50%*off*", ["3"]),
        ("5%", []),
        ("a_ship*", []),
        ("4", ["4"]),  # an id
        ("*", ["1", "2", "3", "4"]),
        ("~harb", ["1"]),
        ("~^[24]$", ["2", "4"]),
        ("~(?i)ÜNÏ", ["4"]),
        ("~.", ["1", "2", "3", "4"]),
    ],
)
def test_what_matches_as_a_whole_or_by_a_regular_expression_is_embedded_again(
    embedded: Database, queue: AdminQueue, pattern: str, records: list[str]
) -> None:
    assert reprocess(queue, pattern, dry_run=True) == len(records)
    assert pending(embedded) == []
    assert reprocess(queue, pattern) == len(records)
    assert pending(embedded) == records
    assert len(embed_all(queue)) == len(records)


def test_what_matches_is_shown_before(embedded: Database, queue: AdminQueue) -> None:
    stretch = queue.reprocess("*", None, None, 0, dry_run=True)
    assert (stretch.matched, len(stretch.examples)) == (4, 3)
    assert stretch.examples[0] == {
        "table_name": "docs",
        "embedding_column": "embedding",
        "record_id": "1",
        "status": "completed",
        "preview": "a ship in the harbour",
    }


def test_a_long_queue_is_looked_at_piece_by_piece(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 9)
    found, after = [], 0
    while after is not None:
        [(matched, after)] = rows(
            docs,
            "select matched, looked_to from reprocess_embeddings('*text*', after_id => %s,"
            " batch => 4)",
            after,
        )
        found.append(matched)
    assert found == [4, 4, 1, 0]


def test_a_job_that_is_processing_loses_its_lease_and_a_failed_one_its_reason(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    first, second = claim(queue)
    queue.fail([second], "rejected", "no")
    assert reprocess(queue, "text ?") == 2
    assert pending(docs) == ["1", "2"]
    assert [refusal.reason for refusal in complete(queue, [first])] == ["lost"]
    assert value(docs, "select count(*) from embedding_queue where error_class is null") == 2


def test_it_keeps_to_its_table_and_reads_what_can_be_read(
    embedded: Database, queue: AdminQueue
) -> None:
    notes = Table(embedded, "app", "notes")
    notes.create()
    notes.watch()
    notes.insert(1, "a ship as well")
    embed_all(queue)
    assert reprocess(queue, "*ship*", "app.notes", dry_run=True) == 1
    embedded.execute("update embedding_targets set enabled = false where table_name = 'docs'")
    assert reprocess(queue, "*", dry_run=True) == 1
    embedded.execute("update embedding_targets set enabled = true")
    embedded.execute("select watch_embeddings('docs', 'body || (1 / (id - 2))', 'embedding')")
    assert reprocess(queue, "*ship*", dry_run=True) == 2
    embedded.execute("alter table docs rename body to words")
    assert reprocess(queue, "*ship*", dry_run=True) == 1


@pytest.mark.contract
def test_a_table_that_is_locked_or_gone_does_not_pass_for_one_without_a_match(
    embedded: Database, connect: Connect, queue: AdminQueue
) -> None:
    holding = connect()
    with holding.transaction():
        holding.execute("lock table docs")
        with pytest.raises(Busy, match="table docs is locked by another session"):
            reprocess(queue, "4")
    assert pending(embedded) == []
    assert reprocess(queue, "4") == 1
    embedded.execute("drop table docs")
    assert reprocess(queue, "4") == 0


@pytest.mark.contract
def test_a_pattern_that_is_none_is_refused_with_its_cause(
    docs: Database, queue: AdminQueue
) -> None:
    with pytest.raises(SettingsError) as problem:
        reprocess(queue, "~(")
    assert problem.value.cause == "invalid regular expression: parentheses () not balanced"
    assert problem.value.hint


@pytest.mark.over_a_connection
def test_a_pattern_that_takes_for_ever_is_ended_by_the_timeout(
    docs: Database, queue: AdminQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs.execute("insert into docs values (1, repeat('a', 5000) || 'b')")
    monkeypatch.setitem(STATEMENT_TIMEOUTS, "reprocess_embeddings", "100ms")
    docs.execute("alter function reprocess_embeddings set statement_timeout = '100ms'")
    with pytest.raises(StatementTimeout):
        reprocess(queue, r"~(a+)(a+)(a+)(a+)\1\2\3\4b$")
    assert reprocess(queue, "*b") == 1


def test_a_worker_may_reprocess_as_it_may_requeue(embedded: Database) -> None:
    with acting_as(embedded, "embedding_worker"):
        assert value(embedded, "select matched from reprocess_embeddings('4')") == 1
    assert pending(embedded) == ["4"]
