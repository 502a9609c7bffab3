"""Vectors that are known already: what goes in, what comes out, and how much stays."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import LiteralString
from uuid import uuid4

import numpy as np
import pytest

from tests.conftest import Database, Server, migrate, rows, value
from tests.integration.tables import Connect, refusal, vector_of
from worker.queue import AdminQueue, Cached, Completion, Job, JobId
from worker.queue.postgres import PostgresQueue

MODEL = "test:model"
ROOMY = 64  # MiB


def hash_of(text: str) -> bytes:
    return sha256(text.encode()).digest()


def made(text: str, width: int = 3, tokens: int | None = 7) -> Completion:
    """A completion for a text, whose job is none that the queue knows."""
    job = Job(
        id=JobId(1),
        target_id=1,
        table_name="docs",
        record_id="1",
        embedding_column="embedding",
        content=text,
        content_hash=hash_of(text),
        lease=uuid4(),
        model=MODEL,
        dimensions=width,
    )
    return Completion(job, np.array(vector_of(text, width), dtype=np.float32), tokens)


def put(queue: AdminQueue, *texts: str, width: int = 3, cap_mb: int = ROOMY) -> None:
    queue.cache(MODEL, [made(text, width) for text in texts], cap_mb)


def get(queue: AdminQueue, *texts: str, model: str = MODEL, width: int = 3) -> Cached:
    return queue.cached(model, width, [hash_of(text) for text in texts])


SIZE: LiteralString = (
    "select coalesce(sum((16 * dimensions / 3 + 512 + 1023) / 1024), 0)::integer"
    "  from embedding_cache"
)


@pytest.mark.contract
def test_what_was_put_in_comes_out_with_its_tokens(db: Database, queue: AdminQueue) -> None:
    put(queue, "one", "two", width=1536)
    queue.cache(MODEL, [made("three", 1536, tokens=None)], ROOMY)
    found = get(queue, "one", "two", "three", "four", width=1536)
    assert found.keys() == {hash_of("one"), hash_of("two"), hash_of("three")}
    for text, counted in (("one", 7), ("two", 7), ("three", None)):
        vector, tokens = found[hash_of(text)]
        assert vector.dtype == np.float32
        assert vector.tolist() == vector_of(text, 1536)
        assert tokens == counted


@pytest.mark.contract
def test_a_hash_that_is_unknown_has_no_vector(queue: AdminQueue) -> None:
    assert get(queue, "one") == {}
    assert get(queue) == {}


def test_a_hash_that_is_asked_for_twice_has_one_answer(queue: AdminQueue) -> None:
    put(queue, "one")
    assert get(queue, "one", "one").keys() == {hash_of("one")}


def test_models_and_widths_are_kept_apart(queue: AdminQueue) -> None:
    put(queue, "one", width=3)
    assert get(queue, "one", model="test:other") == {}
    assert get(queue, "one", width=4) == {}
    put(queue, "one", width=4)
    queue.cache("test:other", [made("one", tokens=9)], ROOMY)
    for width, model, tokens in ((3, MODEL, 7), (4, MODEL, 7), (3, "test:other", 9)):
        [(vector, counted)] = get(queue, "one", model=model, width=width).values()
        assert (len(vector), counted) == (width, tokens)


@pytest.mark.contract
def test_what_is_put_in_twice_stays_as_it_is_and_takes_no_room(
    db: Database, queue: AdminQueue
) -> None:
    put(queue, "one", "two", "one")
    before = rows(db, "select ctid, position from embedding_cache order by position")
    drawn = value(db, "select last_value from embedding.cache_kib")
    assert len(before) == drawn == 2
    put(queue, "two", "one", "one")
    assert rows(db, "select ctid, position from embedding_cache order by position") == before
    assert value(db, "select last_value from embedding.cache_kib") == drawn


def test_the_vector_of_a_part_of_a_text_is_not_kept(queue: AdminQueue) -> None:
    """Its hash is that of the whole text, which another column may not want cut."""
    queue.cache(MODEL, [replace(made("one"), truncated_to=2), made("two")], ROOMY)
    assert get(queue, "one", "two").keys() == {hash_of("two")}


def test_the_oldest_go_first(db: Database, queue: AdminQueue) -> None:
    for number in range(70):  # of 16 KiB each
        put(queue, f"text {number}", width=2976, cap_mb=1)
    assert value(db, SIZE) == 1024
    assert get(queue, "text 5", "text 6", width=2976).keys() == {hash_of("text 6")}
    assert get(queue, "text 69", width=2976)


def test_a_row_counts_as_many_kibibytes_as_it_takes(db: Database, queue: AdminQueue) -> None:
    drawn = []
    for width in (96, 97, 256, 1536, 4000):
        before = value(db, "select last_value * is_called::integer from embedding.cache_kib")
        put(queue, "one", width=width)
        drawn.append(value(db, "select last_value from embedding.cache_kib") - before)
    assert drawn == [1, 2, 2, 9, 22]


@pytest.mark.parametrize("width", [3, 384, 1024, 1536])
def test_what_a_row_counts_is_no_less_than_what_it_takes_on_the_disk(
    db: Database, queue: AdminQueue, width: int
) -> None:
    for turn in range(4):
        put(queue, *[f"text {turn} {i}" for i in range(250)], width=width)
    on_disk = "select pg_total_relation_size('embedding_cache') / 1024"
    assert value(db, on_disk) <= value(db, SIZE)


def test_a_smaller_cap_takes_out_what_is_above_it_and_zero_all(
    db: Database, queue: AdminQueue
) -> None:
    put(queue, *[f"text {i}" for i in range(400)], width=1536, cap_mb=4)
    assert value(db, SIZE) == 400 * 9
    put(queue, "one", cap_mb=1)
    assert value(db, SIZE) <= 1024
    assert get(queue, "one")
    db.execute("select cache_embeddings('', '{}', '{}', null, 0)")
    assert value(db, SIZE) == 0


def test_more_than_fits_at_once_leaves_what_fits(db: Database, queue: AdminQueue) -> None:
    put(queue, *[f"text {i}" for i in range(300)], width=1536, cap_mb=1)
    assert 1024 - 9 < value(db, SIZE) <= 1024


def test_the_bound_holds_whatever_is_put_in_at_the_same_time(
    db: Database, database_url: str
) -> None:
    """Of many widths, some of it by all at once. What overlapped at the end is cut by the next."""
    widths = [3, 256, 700, 1536, 4000]

    def fill(number: int) -> None:
        with PostgresQueue(database_url, "tests") as queue:
            for turn in range(12):
                width = widths[(number + turn) % len(widths)]
                own = [f"{number} {turn} {i}" for i in range(25)]
                put(queue, *own, *[f"all {turn} {i}" for i in range(25)], width=width, cap_mb=1)

    with ThreadPoolExecutor(4) as pool:
        filled = [pool.submit(fill, number) for number in range(4)]
    for ending in filled:
        ending.result()
    with PostgresQueue(database_url, "tests") as queue:
        put(queue, "the last", cap_mb=1)
        assert get(queue, "the last")
    assert 1024 * 3 / 4 < value(db, SIZE) <= 1024
    assert value(db, "select count(distinct dimensions) > 1 from embedding_cache")


def test_a_row_that_somebody_holds_is_not_waited_for(
    db: Database, connect: Connect, queue: AdminQueue
) -> None:
    put(queue, "held", "free")
    holding = connect()
    with holding.transaction():
        holding.execute(
            "select from embedding_cache where content_hash = %s for update", [hash_of("held")]
        )
        put(queue, *[f"text {i}" for i in range(70)], width=4000, cap_mb=1)
        assert get(queue, "held", "free").keys() == {hash_of("held")}
    put(queue, "one more", cap_mb=1)
    assert get(queue, "held") == {}


def test_a_lookup_reads_what_it_is_asked_for_however_old_the_statistics_are(
    db: Database, server: Server, database: str
) -> None:
    # directly: each session behind a pooler tells of its reads when it likes
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        look_up(db, queue)


def look_up(db: Database, queue: PostgresQueue) -> None:
    def read() -> tuple[int, int]:
        queue.run_script("select pg_stat_force_next_flush()")
        [(scans, entries)] = rows(
            db,
            "select seq_scan, idx_tup_read from pg_stat_user_tables as of_table"
            "  join pg_stat_user_indexes as of_key using (relid)"
            " where indexrelname = 'embedding_cache_pkey'",
        )
        return scans, entries

    db.execute("analyze embedding_cache")
    put(queue, *[f"text {i}" for i in range(500)])
    scans, before = read()
    get(queue, *[f"text {i}" for i in range(100)])
    put(queue, *[f"text {i}" for i in range(100)])
    assert read() == (scans, before + 200)


def test_vectors_and_hashes_of_different_lengths_are_refused(db: Database) -> None:
    for call in (
        "select cache_embeddings('a:b', '{x,y}', array['[1,2,3]'::vector], '{1,2}', 1)",
        "select cache_embeddings('a:b', '{x}', array['[1,2,3]'::vector], '{1,2}', 1)",
    ):
        assert refusal(db, call)[0] == "hashes, vectors and tokens must be of one length"


@pytest.fixture
def on_supabase(empty_database_url: str) -> Iterator[PostgresQueue]:
    """A queue where pgvector is in the schema `extensions`."""
    migrate(empty_database_url, "create schema extensions")
    with PostgresQueue(empty_database_url, "tests") as queue:
        yield queue


def test_the_cache_works_with_pgvector_in_another_schema(on_supabase: PostgresQueue) -> None:
    put(on_supabase, "one")
    [(vector, tokens)] = get(on_supabase, "one").values()
    assert (vector.tolist(), tokens) == (vector_of("one"), 7)
