"""Jobs as tests see them: claimed by a worker, and completed with vectors made up on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from tests.conftest import Database
from worker.embedders import Vectors
from worker.queue import Completion, Job, OperatorQueue, Refusal, Scope

SCOPE = Scope(worker="test", lease=timedelta(minutes=5), default_model="test:model")


def insert(docs: Database, count: int) -> None:
    """Put rows 1 to `count` into the table `docs`, each with a text of its own."""
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [count])


def claim(queue: OperatorQueue, batch_size: int = 100, scope: Scope = SCOPE) -> list[Job]:
    return queue.claim(scope, batch_size).jobs


def claim_one(queue: OperatorQueue) -> Job:
    [job] = claim(queue, 1)
    return job


def complete(
    queue: OperatorQueue, jobs: Sequence[Job], vector: Vectors | None = None
) -> list[Refusal]:
    return queue.complete(
        "test:model",
        [Completion(job, vector_of(job) if vector is None else vector, None) for job in jobs],
    )


def vector_of(job: Job) -> Vectors:
    """A vector that tells which record it was made for."""
    return np.array([int(job.record_id), 1, 0], dtype=np.float32)


def expire_leases(db: Database) -> None:
    """What time does: let every lease run out."""
    db.execute("update embedding_queue set lease_expires_at = now() where status = 'processing'")
