"""Workers that are killed in the middle of a long document: the next one goes on from there."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Start, statuses
from tests.chaos.conftest import CountingServer, ended, wait_until_due
from tests.conftest import Database, eventually
from tests.integration.documents import chunks, document, is_consistent, passages, write

TEXTS_A_REQUEST = 100
FLAGS = ["process", "--json"]


@pytest.fixture
def docs(db: Database) -> Database:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8, chunks => true,"
        " chunk_size => 100)"
    )
    return db


def test_a_kill_costs_the_request_that_was_in_flight(
    docs: Database,
    start: Start,
    openai: CountingServer,
    with_openai: dict[str, str],
    full: bool,
) -> None:
    count = 5000 if full else 1500
    environment = {"EMBEDDING_MAX_CONCURRENCY": "1", "EMBEDDING_LEASE_SECONDS": "2", **with_openai}
    openai.latency = 0.3
    write(docs, 1, document(count))
    worker = start(*FLAGS, **environment)
    eventually(lambda: chunks(docs) >= count // 2, 120)  # and the next request has just begun
    worker.kill()
    worker.wait()
    assert statuses(docs) == {"processing": 1}
    assert passages(docs) == 0
    openai.latency = 0.0
    wait_until_due(docs)
    summary, said = ended(start(*FLAGS, **environment))
    assert (summary["completed"], said) == (1, "")
    asked = openai.times_asked()
    assert len(asked) == passages(docs) == count
    assert asked.total() <= count + TEXTS_A_REQUEST
    assert is_consistent(docs)
