"""Chunks are exported text by text, and come back by claims of given records."""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.conftest import Database, Server, rows, value
from tests.integration.chunks import (
    Document,
    complete,
    create_chunked,
    embed,
    faults,
    passages,
    stage,
)
from tests.integration.jobs import SCOPE
from tests.integration.tables import vector_of
from tests.integration.test_restore import exported
from worker.errors import DatabaseError, SettingsError
from worker.queue import AdminQueue, StoredRow

FIVE = (
    "insert into docs (id, title, body) select i, 'Title',"
    " (select string_agg('Sentence ' || i || '.' || j, '. ') from generate_series(1, i) j)"
    " from generate_series(1, 5) i"
)


@pytest.fixture
def documents(db: Database, queue: AdminQueue) -> Database:
    """Five embedded texts in chunks, of one sentence to five."""
    create_chunked(db)
    db.execute(FIVE)
    embed(db)
    return db


def claimed(queue: AdminQueue, *records: str, dry_run: bool = False) -> list[Document]:
    found = queue.claim_records(queue.target("docs", "embedding"), records, SCOPE, dry_run=dry_run)
    return [
        Document(
            *(job.id, job.lease, job.content_hash, job.record_id, job.content),
            *({}, job.stored or []),
        )
        for job in found.jobs
    ]


def of_texts(backup: list[StoredRow]) -> dict[str, int]:
    """How many chunks each text has."""
    return {
        record: len(list(group)) for record, group in groupby(backup, lambda row: row.record_id)
    }


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 15, 1000])
def test_no_text_is_cut_whatever_the_batch(
    documents: Database, queue: AdminQueue, batch: int
) -> None:
    target = queue.target("docs", "embedding")
    ranges, after = [], None
    while True:
        part = queue.export(target, after, of_chunks=True, batch=batch)
        ranges.append(of_texts(part.rows))
        after = part.looked_to
        if after is None:
            break
        assert list(ranges[-1])[-1] == after
    assert {text: count for part in ranges for text, count in part.items()} == {
        str(count): count for count in range(1, 6)
    }
    assert sum(len(part) for part in ranges) == 5
    assert all(sum(part.values()) <= batch or len(part) == 1 for part in ranges)


def test_a_chunk_has_its_hash_and_its_vector(documents: Database, queue: AdminQueue) -> None:
    stored: dict[bytes, str] = dict(rows(documents, "select hash, content from docs_chunks"))
    backup = exported(queue, queue.target("docs", "embedding"), of_chunks=True)
    assert {row.content_hash for row in backup} == set(stored)
    assert all(row.vector.tolist() == vector_of(stored[row.content_hash]) for row in backup)
    assert {(row.model, row.tokens, row.completed_at) for row in backup} == {
        ("test:model", None, None)
    }


def test_an_export_has_only_chunks_that_a_search_finds(
    documents: Database, queue: AdminQueue
) -> None:
    documents.execute("update docs set body = body || '. And a new sentence' where id = 2")
    [document] = claimed(queue, "2")
    assert stage(documents, document) == []
    target = queue.target("docs", "embedding")
    assert of_texts(exported(queue, target, of_chunks=True))["2"] == 2
    assert complete(documents, document) == []
    assert of_texts(exported(queue, target, of_chunks=True))["2"] == 3


def test_texts_with_composite_keys_are_exported(db: Database, queue: AdminQueue) -> None:
    db.execute(
        "create table docs (tenant text, id integer, title text, body text,"
        " primary key (tenant, id))"
    )
    db.execute("select watch_embeddings('docs', 'body', dimensions => 3, chunks => true)")
    db.execute(
        "insert into docs select t, i, null, 'One ' || t || '. Two. Three'"
        " from unnest('{x,\"y''\\\\\",z}'::text[]) t, generate_series(1, 2) i"
    )
    embed(db)
    backup = exported(queue, queue.target("docs", "embedding"), 2, of_chunks=True)
    assert set(of_texts(backup).values()) == {3}
    assert len(of_texts(backup)) == 6


def test_a_damaged_text_is_claimed_and_only_what_it_lacks_is_staged(
    documents: Database, queue: AdminQueue
) -> None:
    before = passages(documents)
    documents.execute("delete from docs_chunks where id = 5 and content like '%5.3%'")
    documents.execute("delete from docs_chunks where id = 4")
    [document] = claimed(queue, "5", dry_run=True)
    assert [chunk.content for chunk in document.unstored] == ["Sentence 5.3. "]
    assert value(documents, "select count(*) from embedding_queue where lease is not null") == 0
    for document in claimed(queue, "4", "5"):
        assert stage(documents, document) == []
        assert complete(documents, document) == []
    assert passages(documents) == before
    assert faults(documents) == {}


def test_an_overwritten_chunk_is_not_exported_and_counts_as_missing(
    documents: Database, queue: AdminQueue
) -> None:
    documents.execute(
        "update docs_chunks set embedding = '[7,7,7]' where id = 5 and content like '%5.3%'"
    )
    target = queue.target("docs", "embedding")
    assert of_texts(exported(queue, target, of_chunks=True))["5"] == 4
    [document] = claimed(queue, "5", dry_run=True)
    assert value(documents, "select count(*) from docs_chunks where embedding = '[7,7,7]'") == 1
    [document] = claimed(queue, "5")
    assert [chunk.content for chunk in document.unstored] == ["Sentence 5.3. "]
    assert stage(documents, document) == []
    assert complete(documents, document) == []
    assert of_texts(exported(queue, target, of_chunks=True))["5"] == 5
    assert faults(documents) == {}


@pytest.mark.contract
def test_chunks_that_a_search_finds_are_listed_by_text(
    documents: Database, queue: AdminQueue
) -> None:
    target = queue.target("docs", "embedding")
    documents.execute("update docs_chunks set embedding = '[7,7,7]' where id = 3")
    documents.execute("delete from docs_chunk_places where id = 4 and position = 1")
    found = queue.placed_chunks(target, ["1", "3", "4", "9"])
    assert {record: len(hashes) for record, hashes in found.items()} == {
        **{"1": 1, "3": 0, "4": 3, "9": 0},
    }
    stored = rows(documents, "select hash from docs_chunks where id = 1")
    assert found["1"] == {hash_ for (hash_,) in stored}


@pytest.mark.contract
def test_records_that_are_not_claimed_say_why(documents: Database, queue: AdminQueue) -> None:
    documents.execute(
        "update embedding_queue set status = 'processing', lease = gen_random_uuid(),"
        " lease_expires_at = now() + interval '1 minute' where record_id = '2'"
    )
    documents.execute("update docs set body = '' where id = 3")
    target = queue.target("docs", "embedding")
    found = queue.claim_records(target, ["1", "2", "3", "9"], SCOPE, dry_run=True)
    assert [job.record_id for job in found.jobs] == ["1"]
    assert found.settled == {"pending": 1, "skipped": 1, "dropped": 1}


def test_a_new_database_gets_its_chunks_from_the_backup(
    documents: Database, queue: AdminQueue
) -> None:
    before = passages(documents)
    documents.execute("truncate docs_chunks, docs_chunk_places, embedding_queue")
    for document in claimed(queue, "1", "2", "3", "4", "5"):
        assert stage(documents, document) == []
        assert complete(documents, document) == []
    assert passages(documents) == before
    assert faults(documents) == {}


def test_long_texts_are_claimed_a_few_at_a_time(documents: Database, queue: AdminQueue) -> None:
    documents.execute("update docs set body = repeat('A word. ', 300000)")
    documents.execute("select requeue_embeddings(null)")
    before = "select record_id, status from embedding_queue order by 1"
    assert [document.record_id for document in claimed(queue, "1", "2", "3")] == ["1", "2"]
    assert rows(documents, before) == [
        ("1", "processing"),
        ("2", "processing"),
        *[(str(key), "pending") for key in (3, 4, 5)],
    ]


@pytest.mark.contract
def test_texts_in_chunks_are_not_restored_as_a_whole(
    documents: Database, queue: AdminQueue
) -> None:
    target = queue.target("docs", "embedding")
    with pytest.raises(SettingsError, match="is embedded in chunks"):
        queue.export(target, None)
    with pytest.raises(SettingsError, match="is embedded in chunks"):
        queue.restore(target, exported(queue, target, of_chunks=True))


def test_a_text_with_too_many_chunks_for_the_data_api_is_named(
    db: Database, server: Server, queue: AdminQueue
) -> None:
    create_chunked(db)
    db.execute(
        "insert into docs (id, body) select 1, string_agg('Sentence ' || i, '. ')"
        " from generate_series(1, 1000) i"
    )
    embed(db)
    target = queue.target("docs", "embedding")
    if server.project is None:
        assert len(exported(queue, target, of_chunks=True)) == 1000
        return
    with pytest.raises(DatabaseError, match="1 of docs has more chunks than the Data API"):
        queue.export(target, None, of_chunks=True)
