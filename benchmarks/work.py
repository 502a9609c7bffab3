"""The two works that are compared: the whole cycle of a job, and the bare write of its vector.

Both write the same vectors beside the same texts: the cycle through the queue of `docs`, with an
embedder that costs nothing, and the bare write into `plain`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from benchmarks.database import Connection, Database, some_vectors, write_vectors
from benchmarks.worker_processes import Crew, Take
from worker.errors import Busy
from worker.queue import Completion, Job, Scope
from worker.queue.postgres import PostgresQueue

MODEL = "benchmark:free"
SCOPE = Scope(worker="benchmark", lease=timedelta(minutes=5), default_model=MODEL)

BATCH = 100
"""Where the size of a batch is not the question."""

WARM_UP = 6
"""Calls before the clock starts: from the sixth on, Postgres keeps the plans of a session."""

LOCKED_PAUSE = 0.02  # seconds until what was locked is tried again; the engine waits as long
LOCKED_TRIES = 50


@dataclass(frozen=True, slots=True)
class Drain:
    """Work for a crew: claim and complete until nothing is due."""

    database: Database
    batch: int
    prepare_threshold: int | None = None  # what PostgresQueue does

    @contextmanager
    def ready(self, take: Take) -> Iterator[Callable[[], None]]:
        with self.database.queue() as queue:
            queue.database.current.prepare_threshold = self.prepare_threshold
            for _ in range(WARM_UP):
                complete(queue, claim(queue, 1), self.database.dimensions)
            yield partial(drain, queue, self.database.dimensions, self.batch)


@dataclass(frozen=True, slots=True)
class WriteBack:
    """Work for a crew: write the vectors of the first `rows` rows of `plain`, batch by batch."""

    database: Database
    batch: int
    rows: int

    @contextmanager
    def ready(self, take: Take) -> Iterator[Callable[[], None]]:
        with self.database.connect() as connection:
            for spare in range(self.rows, self.rows + WARM_UP):
                self._write(connection, range(spare, spare + 1))
            yield partial(self._write_all, connection, take)

    def _write_all(self, connection: Connection, take: Take) -> None:
        while (first := take() * self.batch) < self.rows:
            self._write(connection, range(first, min(first + self.batch, self.rows)))

    def _write(self, connection: Connection, ids: range) -> None:
        write_vectors(connection, "plain", ids, self.database.dimensions)


def drain_rate(database: Database, crew: Crew, rows: int, drain: Drain) -> float:
    """Rows a second from claim to completion, all of them checked to have their vector."""
    database.refill("docs", rows + WARM_UP * crew.size)
    seconds = crew.seconds(drain)
    database.check_all_embedded("docs")
    return rows / seconds


def write_back_rate(database: Database, crew: Crew, rows: int, batch: int) -> float:
    """Rows a second of the bare write."""
    database.refill("plain", rows + WARM_UP)
    seconds = crew.seconds(WriteBack(database, batch, rows))
    database.check_all_embedded("plain")
    return rows / seconds


def drain(queue: PostgresQueue, dimensions: int, batch: int, most: int | None = None) -> None:
    """Claim and complete until nothing is due, or `most` jobs are done."""
    done = 0
    while (most is None or done < most) and (jobs := claim(queue, batch)):
        complete(queue, jobs, dimensions)
        done += len(jobs)


def claim(queue: PostgresQueue, batch: int) -> list[Job]:
    """Claim, with patience for a table that autovacuum has locked for a moment. Empty: none is due.

    Raises RuntimeError if a job was settled without a vector: then there is nothing to measure.
    """
    for _ in range(LOCKED_TRIES):
        try:
            claimed = queue.claim(SCOPE, batch)
        except Busy:
            time.sleep(LOCKED_PAUSE)
            continue
        if claimed.settled:
            raise RuntimeError(f"jobs were settled without a vector: {claimed.settled}")
        return claimed.jobs
    raise RuntimeError("all that is due stayed locked")


def complete(queue: PostgresQueue, jobs: Sequence[Job], dimensions: int) -> None:
    """Hand in the vector that belongs to each row, and once more what was locked, as the engine.

    Raises RuntimeError if a vector is refused for another reason, or for too long.
    """
    vectors = some_vectors(dimensions)
    left = [Completion(job, vectors[int(job.record_id) % len(vectors)], None) for job in jobs]
    for _ in range(LOCKED_TRIES):
        reasons = {refusal.job_id: refusal.reason for refusal in queue.complete(MODEL, left)}
        left = [completion for completion in left if completion.job.id in reasons]
        if not left:
            return
        if set(reasons.values()) != {"locked"}:
            break
        time.sleep(LOCKED_PAUSE)
    raise RuntimeError(f"completions were refused: {reasons}")
