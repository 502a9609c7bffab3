"""The two tasks that are compared: the whole cycle of a job, and only the write of its vector.

Both write the same vectors for the same texts: the cycle through the queue into `docs`, with an
embedder that takes no time, and the write into `plain`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from benchmarks.database import Connection, Database, some_vectors, write_vectors
from benchmarks.worker_processes import Processes, Take
from worker.errors import Busy
from worker.queue import Completion, Job, Scope
from worker.queue.postgres import PostgresQueue

MODEL = "benchmark:free"
SCOPE = Scope(worker="benchmark", lease=timedelta(minutes=5), default_model=MODEL)

BATCH = 100
"""The batch size where another size is not measured."""

WARM_UP = 6
"""Calls before the measurement: from the sixth on, Postgres keeps the plans of a session."""

LOCKED_PAUSE = 0.02  # seconds until a locked row is tried again
LOCKED_TRIES = 50


@dataclass(frozen=True, slots=True)
class Drain:
    """Work of the processes: claim and complete until nothing is due."""

    database: Database
    batch: int
    prepare_threshold: int | None = None  # the default of PostgresQueue

    @contextmanager
    def ready(self, take: Take) -> Iterator[Callable[[], None]]:
        with self.database.queue() as queue:
            queue.database.current.prepare_threshold = self.prepare_threshold
            for _ in range(WARM_UP):
                complete(queue, claim(queue, 1), self.database.dimensions)
            yield partial(drain, queue, self.database.dimensions, self.batch)


@dataclass(frozen=True, slots=True)
class WriteBack:
    """Work of the processes: write the vectors of the first `rows` rows of `plain`, in batches."""

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


def drain_rate(database: Database, processes: Processes, rows: int, drain: Drain) -> float:
    """Return rows a second from claim to completion, and check that every row has its vector."""
    database.refill("docs", rows + WARM_UP * processes.size)
    seconds = processes.seconds(drain)
    database.check_all_embedded("docs")
    return rows / seconds


def write_back_rate(database: Database, processes: Processes, rows: int, batch: int) -> float:
    """Return rows a second of the write alone."""
    database.refill("plain", rows + WARM_UP)
    seconds = processes.seconds(WriteBack(database, batch, rows))
    database.check_all_embedded("plain")
    return rows / seconds


def drain(queue: PostgresQueue, dimensions: int, batch: int, most: int | None = None) -> None:
    """Claim and complete until nothing is due, or `most` jobs are done."""
    done = 0
    while (most is None or done < most) and (jobs := claim(queue, batch)):
        complete(queue, jobs, dimensions)
        done += len(jobs)


def claim(queue: PostgresQueue, batch: int) -> list[Job]:
    """Claim jobs, and retry while autovacuum locks the table. Returns no jobs if none is due.

    Raises RuntimeError if a claim settled a job without a vector, since this is not measured.
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
    raise RuntimeError("all due jobs stayed locked")


def complete(queue: PostgresQueue, jobs: Sequence[Job], dimensions: int) -> None:
    """Complete jobs with the vector of each row, and retry those whose row is locked.

    The jobs are of one target, as from a claim. Raises RuntimeError if a vector is refused for
    another reason, or if a row stays locked.
    """
    model = jobs[0].model if jobs else MODEL
    vectors = some_vectors(dimensions)
    left = [Completion(job, vectors[int(job.record_id) % len(vectors)], None) for job in jobs]
    for _ in range(LOCKED_TRIES):
        reasons = {refusal.job_id: refusal.reason for refusal in queue.complete(model, left)}
        left = [completion for completion in left if completion.job.id in reasons]
        if not left:
            return
        if set(reasons.values()) != {"locked"}:
            break
        time.sleep(LOCKED_PAUSE)
    raise RuntimeError(f"completions were refused: {reasons}")
