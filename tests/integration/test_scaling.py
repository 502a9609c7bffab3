"""What KEDA asks of the database, in deploy/kubernetes."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY, Database, value
from worker.queue.postgres import PostgresQueue

SCALER = REPOSITORY / "deploy/kubernetes/components/keda/scaled-object.yaml"


def due(db: Database) -> int:
    [query] = re.findall(r"^ *query: (.+)$", SCALER.read_text(encoding="utf-8"), re.M)
    return int(value(db, query))


def test_it_starts_workers_for_due_jobs_alone(docs: Database) -> None:
    assert due(docs) == 0
    docs.execute("insert into docs values (1, 'one'), (2, 'two'), (3, 'three')")
    assert due(docs) == 3
    docs.execute("update embedding_queue set available_at = now() + interval '1 hour'")
    assert due(docs) == 0, "a job of later starts a worker later"
    docs.execute("update embedding_queue set available_at = now()")
    docs.execute("update embedding_targets set enabled = false")
    assert due(docs) == 0, "a worker would claim nothing"


def test_it_starts_a_worker_for_the_jobs_of_a_dead_one(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("select claim_embeddings('dead', default_model => 'a:b')")
    assert due(docs) == 0
    docs.execute("update embedding_queue set lease_expires_at = now() - interval '1 s'")
    assert due(docs) == 1
