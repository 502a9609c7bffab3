"""Plans that a session keeps read tables by index, though the tables were small before."""

from __future__ import annotations

from psycopg import sql

from tests.conftest import Database, value
from tests.integration.jobs import claim
from tests.integration.tables import embed, embed_all
from worker.queue.postgres import PostgresQueue

MANY = 20_000


def sequential_reads(db: Database) -> int:
    """How many rows of both tables this session has read without an index, and not reported yet."""
    return int(
        value(
            db,
            "select sum(seq_tup_read) from pg_stat_xact_user_tables"
            " where relname in ('docs', 'embedding_queue')",
        )
    )


def test_a_table_that_has_grown_is_read_by_index(docs: Database, queue: PostgresQueue) -> None:
    for table in ("docs", "embedding_queue"):  # new statistics would end the plans
        docs.execute(
            sql.SQL("alter table {} set (autovacuum_enabled = off)").format(sql.Identifier(table))
        )
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 8) i")
    embed_all(queue)
    docs.execute("vacuum analyze docs, embedding_queue")
    for row in range(1, 9):  # a session keeps its plans from the sixth call on
        docs.execute("update docs set body = 'edited' where id = %s", [row])
        embed_all(queue)
    docs.execute(
        "insert into docs select i, 'text ' || i from generate_series(100, %s) i", [100 + MANY]
    )
    with docs.transaction():
        before = sequential_reads(docs)
        docs.execute("update docs set body = 'edited' where id = 150")
        assert sequential_reads(docs) == before
    session = queue.database.current
    with session.transaction():
        before = sequential_reads(session)
        jobs = claim(queue, 5)
        assert embed(queue, jobs) == []
        assert sequential_reads(session) == before
    assert len(jobs) == 5
