"""Jobs as tests see them: claimed by a worker, and completed with vectors made up on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from tests.conftest import Database, value
from worker.embedders.base import Vectors
from worker.queue import AdminQueue, Completion, Job, Refusal, Scope

SCOPE = Scope(worker="test", lease=timedelta(minutes=5), default_model="test:model")


def insert(docs: Database, count: int) -> None:
    """Put rows 1 to `count` into the table `docs`, each with a text of its own."""
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [count])


def claim(queue: AdminQueue, batch_size: int = 100, scope: Scope = SCOPE) -> list[Job]:
    return queue.claim(scope, batch_size).jobs


def claim_one(queue: AdminQueue) -> Job:
    [job] = claim(queue, 1)
    return job


def complete(
    queue: AdminQueue, jobs: Sequence[Job], vector: Vectors | None = None
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


# What a row may raise: of its own fault, as if the schema were at fault, or the whole server.
SQLSTATES = [
    *("22012", "22023", "22003", "23514", "21000", "P0001", "P0002", "P0004", "38000", "ZZZZZ"),
    *("42704", "42883", "42501", "42P01", "42703", "3F000", "0A000", "25006"),
    *("40001", "40P01", "53200", "53400", "55P03", "57014", "57P01", "58030", "08006", "XX000"),
]


def create_poison(db: Database, sqlstate: str) -> None:
    """Create `poison(text)`, which returns its text, or raises an error over one with `poison`."""
    db.execute(
        "create or replace function poison(body text) returns text language plpgsql as $$ begin"
        " if body like '%poison%' then raise sqlstate '" + sqlstate + "'"
        " using message = 'poison'; end if; return body; end $$"
    )


def poison_trigger(db: Database, sqlstate: str, timing: str = "before") -> None:
    """Let a trigger on `docs` raise an error over each update of a row with a text of poison."""
    create_poison(db, sqlstate)
    db.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin perform public.poison(new.body); return new; end $$"
    )
    kind = "constraint trigger" if timing == "deferred" else "trigger"
    at = (
        "after update on docs deferrable initially deferred"
        if kind != "trigger"
        else (f"{timing} update on docs")
    )
    db.execute(f"create {kind} refuse {at} for each row execute function refuse()")


def rows_read(db: Database) -> int:
    """How many rows of the queue the statements of this transaction have read so far."""
    found: int = value(
        db,
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
        " where relname = 'embedding_queue'",
    )
    return found


def let_nothing_wait(db: Database) -> None:
    """A call that waits for a lock ends with an error, and not with the end of the test."""
    for function in ("claim_embeddings", "complete_embeddings", "extend_embeddings"):
        db.execute(f"alter function public.{function} set lock_timeout = '2s'")
