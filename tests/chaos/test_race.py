"""Writers who never pause against workers who never pause, and are killed: the first promise."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from threading import Event
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.acceptance.conftest import statuses
from tests.chaos.conftest import wait_until_due
from tests.command_line import fork_server
from tests.conftest import Database, rest_in_full, rows, value
from worker.chunking.documents import split_document
from worker.embedders.registry import open_embedder
from worker.engine.pipeline import Pipeline, RunOptions
from worker.engine.progress import RunStats
from worker.queue import Scope
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

RECORDS = 60
EDITORS = 3
WORKERS = 4
ROLLED_BACK = 0.02  # the share of transactions behind which a TRUNCATE is tried and taken back


@pytest.fixture(params=rest_in_full([False, True]), ids=["as a whole", "in chunks"])
def in_chunks(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def notes(db: Database, in_chunks: bool) -> Database:
    db.execute("create table notes (id integer primary key, body text, deleted_at timestamptz)")
    db.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 256,"
        " filter => 'deleted_at is null', chunks => %s, chunk_size => %s)",
        [in_chunks, 50 if in_chunks else None],
    )
    db.execute("insert into notes select i, 'note ' || i from generate_series(1, %s) i", [RECORDS])
    return db


@pytest.mark.timeout(300)
def test_no_vector_differs_from_its_text_after_edits_and_kills_without_pause(
    notes: Database,
    in_chunks: bool,
    database_url: str,
    full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    edits, stats = race(database_url, *((60.0, 30) if full else (5.0, 3)))
    unfinished = (
        "select exists (select from embedding_queue where status in ('pending', 'processing'))"
    )
    with Drainer(database_url) as drainer:
        while value(notes, unfinished):
            wait_until_due(notes)
            drainer.drain()
    assert statuses(notes).keys() <= {"completed", "skipped"}
    assert (differing_in_chunks(notes) if in_chunks else differing(notes)) == []
    jobs = rows(notes, "select record_id from embedding_queue order by record_id")
    living = "select id::text from notes where deleted_at is null order by id::text"
    assert jobs == rows(notes, living)
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    assert value(notes, deadlocks) == 0
    # The race took place: rows were edited while they were embedded, by the hundred.
    assert edits.keys() == CHANGES.keys()
    assert edits.total() > 200
    assert stats.completed > 20
    assert stats.stale + stats.released > 0
    record_property(
        "race",
        f"{edits.total()} edits, {stats.completed} vectors written,"
        f" {stats.stale + stats.released} thrown away",
    )


def race(url: str, seconds: float, kills: int) -> tuple[Counter[str], RunStats]:
    """How often there was each kind of edit, and what the workers did that were not killed."""
    dice = random.Random(EDITORS)
    over = Event()
    with ThreadPoolExecutor(EDITORS) as pool:
        try:
            crew = [Racer(url) for _ in range(WORKERS)]
            for racer in crew:
                racer.wait_until_ready()
            editors = [pool.submit(edit, url, over, seed) for seed in range(EDITORS)]
            for _ in range(kills):
                over.wait(seconds / (kills + 1))  # the length of the race
                crew.pop(dice.randrange(WORKERS)).kill()
                crew.append(Racer(url))
            over.wait(seconds / (kills + 1))
        finally:
            over.set()
        edits = sum((editor.result() for editor in editors), Counter[str]())
        stats = RunStats()
        for racer in crew:
            add(racer.end(), stats)
    return edits, stats


def edit(url: str, over: Event, seed: int) -> Counter[str]:
    """Edit one to three records a transaction, in their order. A deadlock would raise here."""
    dice = random.Random(seed)
    edits = Counter[str]()
    with psycopg.connect(url) as connection:
        while not over.is_set():
            for record in sorted(dice.sample(range(1, RECORDS + 1), dice.randint(1, 3))):
                [kind] = dice.choices(list(CHANGES), [weight for weight, _ in CHANGES.values()])
                change(
                    connection,
                    kind,
                    dice.choice([record, -record]),
                    written(seed, edits.total()),
                )
                edits[kind] += 1
            connection.commit()
            if dice.random() < ROLLED_BACK:
                with connection.transaction(force_rollback=True):
                    connection.execute("truncate notes cascade")
    return edits


def written(seed: int, number: int) -> str:
    """A text of some paragraphs, of which the next text by the same editor has most."""
    return "\n\n".join(
        f"{seed} wrote this in paragraph {number // divisor * divisor}" for divisor in (27, 9, 3, 1)
    )


UPSERT = (
    "insert into notes (id, body) values (%(id)s, %(body)s)"
    " on conflict (id) do update set body = excluded.body, deleted_at = null"
)
DELETE = "delete from notes where id = %(id)s"
# How often, and what. A record bears its number with either sign, so that keys come back which
# were given up, and one that is deleted under a worker may be there again when it answers.
CHANGES: dict[str, tuple[int, list[str]]] = {
    "upsert": (6, [UPSERT]),
    "edit": (3, ["update notes set body = %(body)s where id = %(id)s"]),
    "blank": (1, ["update notes set body = ' ' where id = %(id)s"]),
    "hide": (2, ["update notes set deleted_at = now() where id = %(id)s"]),
    "show": (2, ["update notes set deleted_at = null where id = %(id)s"]),
    "delete": (1, [DELETE]),
    "insert again": (1, [DELETE, UPSERT]),
    "new key": (
        3,
        [
            # looked for first: two editors who each wait for the other's key would be a deadlock
            # of their own making
            "update notes set id = -id where id = %(id)s"
            " and not exists (select from notes where id = -%(id)s)"
        ],
    ),
    "requeue": (1, ["select requeue_embeddings(null, only_record => %(id)s::text)"]),
    "requeue failed": (1, ["select requeue_embeddings(batch => 20)"]),
    "requeue many": (1, ["select requeue_embeddings(null, batch => 20, after_id => %(id)s)"]),
}


def change(connection: psycopg.Connection[Any], kind: str, record: int, body: str) -> None:
    # a key may be taken by another editor in the same moment
    with suppress(psycopg.errors.UniqueViolation), connection.transaction():
        for statement in CHANGES[kind][1]:
            connection.execute(statement.encode(), {"id": record, "body": body})


class Racer:
    """A process that drains the queue again and again, until its end or until it is killed."""

    def __init__(self, url: str) -> None:
        self._pipe, theirs = fork_server().Pipe()
        self._process = fork_server().Process(target=work, args=[url, theirs], daemon=True)
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        assert self._pipe.recv() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def end(self) -> RunStats:
        self._pipe.send(None)
        while (stats := self._pipe.recv()) is None:  # that it was ready, where nobody has waited
            pass
        self._process.join()
        self._pipe.close()
        assert isinstance(stats, RunStats)
        return stats


def work(url: str, pipe: Connection[RunStats | None, None]) -> None:
    total = RunStats()
    with Drainer(url) as drainer:
        pipe.send(None)
        while not pipe.poll():
            add(drainer.drain(), total)
    pipe.send(total)


def add(stats: RunStats, total: RunStats) -> None:
    total.completed += stats.completed
    total.stale += stats.stale
    total.released += stats.released


class Drainer:
    """A worker that keeps its connection and its model from one drain to the next."""

    def __init__(self, url: str) -> None:
        self._queue = PostgresQueue(url, "race")
        self._embedder = open_embedder(Settings().embedding_model, 256, Settings())

    def __enter__(self) -> Drainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.__exit__()

    def drain(self) -> RunStats:
        return Pipeline(
            queue=self._queue,
            open_embedder=lambda model, width, prompt: self._embedder,
            split=split_document,
            scope=Scope(f"race {os.getpid()}", timedelta(seconds=2), self._embedder.model),
            options=RunOptions(batch_size=10),
            progress=self,
            stop=Event(),
        ).drain()

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
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
            right = embedder.embed([body], "document").vectors[0]
            same = vector is not None and np.allclose(vector, right, atol=1e-5)
        else:
            same = vector is None
        if not same:
            wrong.append(record)
    assert len(found) == value(notes, "select count(*) from notes")
    return wrong


def differing_in_chunks(notes: Database) -> list[int]:
    """The records whose passages are not their text, or have vectors that are not theirs."""
    embedder = open_embedder("local:wordllama-256", 256, Settings())
    texts: dict[int, str] = {
        record: body if alive and body.strip() else ""
        for record, alive, body in rows(notes, "select id, deleted_at is null, body from notes")
    }
    found = dict.fromkeys(texts, "")
    wrong = []
    for record, content, vector in rows(
        notes,
        "select place.id, content, chunk.embedding::real[] from notes_chunk_places as place"
        " left join notes_chunks as chunk using (id, hash) order by place.id, position",
    ):
        right = embedder.embed([content], "document").vectors[0]
        if not np.allclose(vector, right, atol=1e-5):
            wrong.append(record)
        found[record] += content
    unneeded = (
        "select id from notes_chunks where (id, hash) not in"
        " (select id, hash from notes_chunk_places)"
    )
    wrong += [record for (record,) in rows(notes, unneeded)]
    return wrong + [record for record in texts if found[record] != texts[record]]
