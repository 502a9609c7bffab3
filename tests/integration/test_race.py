"""Writers who never pause against workers who never pause: the first promise, under load."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.conftest import Database, rows, value
from worker.embedders import open_embedder
from worker.engine.pipeline import Pace, Pipeline
from worker.engine.progress import Tally
from worker.queue import Scope
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

RECORDS = 60
SECONDS = 5.0
EDITORS = WORKERS = 3


@pytest.fixture
def notes(db: Database) -> Database:
    db.execute("create table notes (id integer primary key, body text, deleted_at timestamptz)")
    db.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 256,"
        " filter => 'deleted_at is null')"
    )
    db.execute("insert into notes select i, 'note ' || i from generate_series(1, %s) i", [RECORDS])
    return db


@pytest.mark.timeout(120)
def test_no_vector_differs_from_its_text_after_edits_without_pause(
    notes: Database, database_url: str
) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(EDITORS + WORKERS, mp_context=spawn) as pool:
        begin = time.time() + 2.0  # the processes have imported everything by then
        workers = [pool.submit(work, database_url, begin) for _ in range(WORKERS)]
        editors = [pool.submit(edit, database_url, begin, seed) for seed in range(EDITORS)]
        edits = [editor.result() for editor in editors]
        tallies = [worker.result() for worker in workers]

    with Racer(database_url) as racer:
        # what was handed back is due a second later
        while value(notes, "select count(*) from embedding_queue where status = 'pending'"):
            racer.drain()
    assert (
        rows(
            notes,
            "select record_id, status from embedding_queue where status <> 'completed'"
            " and status <> 'skipped'",
        )
        == []
    )
    assert differing(notes) == []
    # The race took place: rows were edited while they were embedded, by the hundred.
    assert sum(edits) > 200
    assert sum(tally.completed for tally in tallies) > 20
    assert sum(tally.stale + tally.released for tally in tallies) > 0


def edit(url: str, begin: float, seed: int) -> int:
    """Edit one to three rows a transaction, in key order. A deadlock would raise here."""
    dice = random.Random(seed)
    edits = 0
    time.sleep(max(begin - time.time(), 0))
    # Nothing is prepared: a pooler gives each transaction another session.
    with psycopg.connect(url, prepare_threshold=None) as connection:
        while time.time() < begin + SECONDS:
            for record in sorted(dice.sample(range(1, RECORDS + 1), dice.randint(1, 3))):
                CHANGES[dice.randrange(len(CHANGES))](connection, record, f"{seed} wrote {edits}")
                edits += 1
            connection.commit()
    return edits


Change = Callable[[psycopg.Connection[Any], int, str], object]
UPSERT = (
    "insert into notes (id, body) values (%(id)s, %(body)s)"
    " on conflict (id) do update set body = excluded.body, deleted_at = null"
)
CHANGES: list[Change] = [
    *[lambda connection, record, body: connection.execute(UPSERT, {"id": record, "body": body})]
    * 7,
    lambda connection, record, body: connection.execute(
        "update notes set deleted_at = now() where id = %s", [record]
    ),
    lambda connection, record, body: connection.execute(
        "update notes set body = ' ' where id = %s", [record]
    ),
    lambda connection, record, body: connection.execute(
        "delete from notes where id = %s", [record]
    ),
]


def work(url: str, begin: float) -> Tally:
    """Drain the queue again and again until the editors are done."""
    total = Tally()
    with Racer(url) as racer:
        time.sleep(max(begin - time.time(), 0))
        while time.time() < begin + SECONDS:
            tally = racer.drain()
            for count in ("completed", "stale", "released"):
                setattr(total, count, getattr(total, count) + getattr(tally, count))
    return total


class Racer:
    """A worker that keeps its connection and its model from one drain to the next."""

    def __init__(self, url: str) -> None:
        self._queue = PostgresQueue(url, "race")
        self._embedder = open_embedder(Settings().embedding_model, 256, Settings())

    def __enter__(self) -> Racer:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.__exit__()

    def drain(self) -> Tally:
        return Pipeline(
            queue=self._queue,
            open_embedder=lambda model, width: self._embedder,
            scope=Scope(f"race {os.getpid()}", timedelta(minutes=5), self._embedder.model),
            pace=Pace(batch_size=10),
            progress=self,
            stop=Event(),
        ).drain()

    def update(self, tally: Tally) -> None:
        pass

    def remark(self, message: str) -> None:
        pass


def differing(notes: Database) -> list[int]:
    """The records whose vector is not that of their text, or not null where there is none."""
    found = rows(
        notes, "select id, deleted_at is null, coalesce(body, ''), embedding::real[] from notes"
    )
    embedder = open_embedder("local:wordllama-256", 256, Settings())
    wrong = []
    for record, alive, body, vector in found:
        if alive and body.strip():
            right = embedder.embed([body]).vectors[0]
            same = vector is not None and np.allclose(vector, right, atol=1e-5)
        else:
            same = vector is None
        if not same:
            wrong.append(record)
    assert len(found) == value(notes, "select count(*) from notes")
    return wrong
