"""Plans read tables by index, though the tables were small when they were made or analyzed."""

from __future__ import annotations

from psycopg import sql

from tests.conftest import Database, value
from tests.integration import chunks
from tests.integration.jobs import claim, rows_read
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


def test_a_verification_reads_only_the_rows_and_jobs_of_its_range(
    docs: Database, queue: PostgresQueue
) -> None:
    for table in ("docs", "embedding_queue"):
        docs.execute(
            sql.SQL("alter table {} set (autovacuum_enabled = off)").format(sql.Identifier(table))
        )
    docs.execute("vacuum analyze docs, embedding_queue")
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [MANY])
    target = queue.target("docs", "embedding")
    after = None
    session = queue.database.current
    with session.transaction():
        for _ in range(2):
            before = sequential_reads(session), rows_read(session)
            found = queue.verify(target, after, 1000)
            after = found[0].looked_to
            assert {each.finding: each.found for each in found if each.found} == {
                "rows": 1000,
                "texts": 1000,
                "pending": 1000,
            }
            assert (sequential_reads(session), rows_read(session)) == (before[0], before[1] + 1000)
    assert after == "2000"


def reads_of_chunks(db: Database) -> int:
    """How many rows of the tables of chunks this session has read, and not reported yet."""
    return int(
        value(
            db,
            "select sum(seq_tup_read + idx_tup_fetch) from pg_stat_xact_user_tables"
            " where relname in ('docs_chunks', 'docs_chunk_places')",
        )
    )


def test_a_text_in_chunks_is_worked_on_without_reading_the_others(db: Database) -> None:
    chunks.create_chunked(db)
    for table in ("docs", "docs_chunks", "docs_chunk_places", "embedding_queue"):
        db.execute(
            sql.SQL("alter table {} set (autovacuum_enabled = off)").format(sql.Identifier(table))
        )
    db.execute("vacuum analyze docs, docs_chunks, docs_chunk_places, embedding_queue")
    for row in range(1, 9):
        db.execute("insert into docs (id, body) values (%s, 'One. Two.')", [row])
        chunks.embed(db)
    db.execute("set session_replication_role = replica")  # these texts wait for nobody
    db.execute(
        "insert into docs (id, body) select i, 'text' from generate_series(100, %s) as i",
        [100 + MANY],
    )
    db.execute("reset session_replication_role")
    db.execute(
        "insert into docs_chunks select id, 'x', 'text', null, '[1,2,3]' from docs where id >= 100"
    )
    db.execute("insert into docs_chunk_places select id, 0, 'x', 0, 4 from docs where id >= 100")
    db.execute("update docs set body = 'One. Three.' where id in (1, 2)")
    with db.transaction():
        before = reads_of_chunks(db)
        documents = chunks.claim(db)
        for document in documents:
            assert chunks.stage(db, document) == []
        assert chunks.complete(db, *documents) == []
        assert reads_of_chunks(db) - before < 100
    assert len(documents) == 2
    assert chunks.passages(db)[:4] == [
        (1, 0, "One. "),
        (1, 1, "Three."),
        (2, 0, "One. "),
        (2, 1, "Three."),
    ]
