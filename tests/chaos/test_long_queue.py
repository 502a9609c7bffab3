"""A claim reads what it takes, however long the queue is and whatever is believed of it."""

from __future__ import annotations

import pytest

from tests.conftest import Database, value
from tests.integration.jobs import SCOPE
from worker.queue.postgres import PostgresQueue

BATCH = 100


@pytest.fixture
def long_queue(docs: Database, full: bool) -> Database:
    """As many jobs pending as completed: a million each at full length."""
    count = 1_000_000 if full else 20_000
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [count])
    docs.execute(
        "update embedding_queue set status = 'completed', completed_at = now(), model = 'a:b'"
    )
    docs.execute(
        "insert into docs select i, 'text ' || i from generate_series(%s::int + 1, 2 * %s::int) i",
        [count, count],
    )
    return docs


@pytest.fixture(params=["never", "while it was empty", "now"])
def analyzed(request: pytest.FixtureRequest, long_queue: Database) -> None:
    """When the statistics of the queue were taken."""
    if request.param == "now":
        long_queue.execute("analyze embedding_queue")
    if request.param == "while it was empty":
        with long_queue.transaction(force_rollback=True):
            long_queue.execute("delete from embedding_queue")
            long_queue.execute("analyze embedding_queue")


@pytest.mark.timeout(600)
def test_a_claim_reads_what_it_takes_and_not_the_queue(
    long_queue: Database, analyzed: None, queue: PostgresQueue
) -> None:
    for _ in range(10):  # plans are kept from the sixth time on
        assert len(queue.claim(SCOPE, BATCH).jobs) == BATCH
    value(long_queue, "select pg_stat_force_next_flush()")
    with long_queue.transaction():
        claimed = "select count(*) from claim_embeddings('tests', %s, default_model => 'a:b')"
        assert value(long_queue, claimed, BATCH) == BATCH
        read = (
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
            " where relname = 'embedding_queue'"
        )
        assert value(long_queue, read) < 10 * BATCH
