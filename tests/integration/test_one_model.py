"""A column holds vectors of exactly one model, whoever works on it with whatever settings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import LiteralString

import numpy as np
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, complete, insert
from tests.integration.tables import Connect, embed, embed_all, jobs, models, vector_of
from worker.errors import SettingsError
from worker.queue import AdminQueue

OTHER = replace(SCOPE, worker="other", default_model="other:model")


def target(db: Database) -> tuple[object, ...]:
    [found] = rows(db, "select model, model_is_default from embedding_targets")
    return found


@pytest.fixture
def embedded(docs: Database, queue: AdminQueue) -> Database:
    """Two documents with vectors of the default model of a first worker."""
    insert(docs, 2)
    assert len(embed_all(queue)) == 2
    return docs


def test_the_first_vectors_decide_on_the_model_of_a_column(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    taken = claim(queue)
    assert target(docs) == (None, False)
    complete(queue, taken)
    assert target(docs) == ("test:model", True)


def test_a_worker_with_another_default_passes_over_the_column_and_serves_the_others(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("insert into docs values (3, 'three')")
    assert not queue.claim(OTHER, 10)
    embedded.execute("select watch_embeddings('docs', 'body', 'second', dimensions => 3)")
    embedded.execute("update docs set body = 'edited' where id = 1")
    [job] = claim(queue, scope=OTHER)
    assert (job.embedding_column, job.model) == ("second", "other:model")
    assert embed(queue, [job]) == []
    assert embed_all(queue) == ["edited", "three"]
    assert models(embedded) == ["test:model"]


def test_a_column_whose_rows_were_all_edited_still_has_its_model(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("update docs set body = 'new ' || body")
    assert not queue.claim(OTHER, 1)
    assert len(embed_all(queue)) == 2


def test_a_model_that_never_gave_a_vector_binds_nobody(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    queue.release(claim(queue, scope=OTHER), reason="no key")
    assert embed_all(queue) == ["text 1"]
    assert target(docs) == ("test:model", True)


def test_of_two_workers_with_different_defaults_one_fills_the_column(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    first, second = claim(queue, 1), claim(queue, 1, OTHER)
    assert embed(queue, first) == []
    assert [refused.reason for refused in embed(queue, second)] == ["other_model"]
    queue.release(second)
    assert not queue.claim(OTHER, 1)
    assert len(embed_all(queue)) == 1
    assert models(docs) == ["test:model"]


@pytest.mark.over_a_connection
def test_of_many_completions_at_once_those_of_one_model_are_taken(
    docs: Database, connect: Connect
) -> None:
    insert(docs, 8)
    sessions = [connect() for _ in range(8)]
    claimed = [
        session.execute(
            "select id, lease, content_hash, model"
            " from claim_embeddings(%s, 1, default_model => %s)",
            [f"worker {number}", f"model:{number % 2}"],
        ).fetchone()
        for number, session in enumerate(sessions)
    ]

    def hand_in(number: int) -> list[tuple[object, ...]]:
        job = claimed[number]
        assert job is not None
        return rows(
            sessions[number],
            "select reason from complete_embeddings(array[%s::bigint], array[%s::uuid],"
            " array[%s::bytea], array['[1,2,3]'::vector], %s)",
            *job,
        )

    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(hand_in, range(8)))
    assert sorted(map(len, refused)) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(models(docs)) == 1
    assert {reason for of_one in refused for (reason,) in of_one} == {"other_model"}


def test_a_worker_without_a_default_serves_a_column_that_has_its_model(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("update docs set body = 'edited' where id = 1")
    assert rows(embedded, "select model from claim_embeddings('sql')") == [("test:model",)]


def test_a_column_that_was_filled_before_models_were_recorded_has_that_of_its_jobs(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("update embedding_targets set model = null")
    embedded.execute("update docs set body = 'edited' where id = 1")
    assert [refused.reason for refused in embed(queue, claim(queue, scope=OTHER))] == [
        "other_model"
    ]
    assert target(embedded) == ("test:model", True)


@pytest.mark.parametrize(
    "change",
    [
        "select watch_embeddings('docs', 'body', 'embedding', model => 'other:model')",
        "update embedding_targets set model = 'other:model'",
    ],
)
def test_another_model_clears_the_vectors_of_the_first_at_once(
    embedded: Database, queue: AdminQueue, change: LiteralString
) -> None:
    embedded.execute(change)
    assert value(embedded, "select count(embedding) from docs") == 0
    assert jobs(embedded) == [("1", "pending"), ("2", "pending")]
    assert target(embedded) == ("other:model", False)
    assert embed_all(queue) == ["text 1", "text 2"]
    assert models(embedded) == ["other:model"]


def test_another_model_also_clears_vectors_of_a_column_without_a_recorded_model(
    embedded: Database,
) -> None:
    embedded.execute("update embedding_targets set model = null")
    embedded.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'other:model')")
    assert value(embedded, "select count(embedding) from docs") == 0


@pytest.mark.parametrize(
    "watched",
    [
        "select watch_embeddings('docs', 'body', 'embedding', model => 'test:model')",
        "select watch_embeddings('docs', 'body', 'embedding')",
    ],
)
def test_watching_with_the_same_model_or_without_one_keeps_the_vectors(
    embedded: Database, queue: AdminQueue, watched: LiteralString
) -> None:
    embedded.execute(watched)
    assert value(embedded, "select count(embedding) from docs") == 2
    assert embed_all(queue) == []
    assert target(embedded) == ("test:model", "model" not in watched)


def test_a_model_that_was_named_is_served_by_every_worker(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'test:model')")
    embedded.execute("update docs set body = 'edited' where id = 1")
    [job] = claim(queue, 1, OTHER)
    assert job.model == "test:model"


def test_a_vector_under_way_from_the_model_before_is_not_written(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("update docs set body = 'edited' where id = 1")
    taken = claim(queue)
    embedded.execute("update embedding_targets set model = 'other:model'")
    assert [refused.reason for refused in embed(queue, taken)] == ["lost"]
    assert value(embedded, "select count(embedding) from docs") == 0


def test_fewer_dimensions_of_the_same_model_are_another_vector(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute(
        "alter table docs alter embedding type vector(2) using subvector(embedding, 1, 2)"
    )
    embedded.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert value(embedded, "select count(embedding) from docs") == 0
    assert embed_all(queue) == ["text 1", "text 2"]
    assert value(embedded, "select embedding::real[] from docs where id = 1") == vector_of(
        "text 1", 2
    )


def test_a_model_that_is_only_called_otherwise_keeps_the_vectors(
    embedded: Database, queue: AdminQueue
) -> None:
    with embedded.transaction():
        embedded.execute("update embedding_queue set model = 'renamed:model'")
        embedded.execute("update embedding_targets set model = 'renamed:model'")
    assert value(embedded, "select count(embedding) from docs") == 2
    assert jobs(embedded) == [("1", "completed"), ("2", "completed")]
    assert target(embedded) == ("renamed:model", False)


def test_changing_the_model_waits_for_a_writer_and_deadlocks_with_none(
    embedded: Database, connect: Connect
) -> None:
    writer, changer = connect(), connect()
    with ThreadPoolExecutor(1) as pool, writer.transaction():
        writer.execute("select from docs where id = 2 for update")
        change = pool.submit(
            changer.execute,
            "select watch_embeddings('docs', 'body', 'embedding', model => 'other:model')",
        )
        waiting = "select count(*) from pg_stat_activity where wait_event = 'relation'"
        while value(embedded, waiting) == 0 and not change.done():
            pass
        writer.execute("update docs set body = 'edited' where id in (1, 2)")
    change.result()
    assert value(embedded, "select count(embedding) from docs") == 0


def test_the_model_is_recorded_while_a_backfill_goes_on(
    docs: Database, queue: AdminQueue, connect: Connect
) -> None:
    insert(docs, 1)
    taken = claim(queue)
    other = connect()
    with ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute("select from embedding_targets for update")  # as a backfill has it
            completing = pool.submit(embed, queue, taken)
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            while value(docs, waiting) == 0:
                assert not completing.done()
        assert completing.result() == []
    assert target(docs) == ("test:model", True)


@pytest.mark.contract
def test_a_search_with_another_model_is_refused(embedded: Database, queue: AdminQueue) -> None:
    found = queue.targets("docs", "embedding")[0]
    vector = np.array([1, 2, 3], dtype=np.float32)
    assert len(queue.search(found, vector, 5, "test:model")) == 2
    with pytest.raises(SettingsError, match="holds vectors of test:model, not of other:model"):
        queue.search(found, vector, 5, "other:model")


def test_an_estimate_leaves_out_a_column_of_another_model(
    embedded: Database, queue: AdminQueue
) -> None:
    embedded.execute("insert into docs values (3, 'three')")
    assert queue.estimate("other:model", None, None, False) == []
    [found] = queue.estimate("test:model", None, None, False)
    assert (found.model, found.row_count) == ("test:model", 1)
