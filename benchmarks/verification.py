"""The speed of `worker verify` over all rows, compared with one statement that checks them all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from benchmarks.database import NARROW, Connection, Server, value, write_vectors
from benchmarks.report import Figure
from worker.queue.postgres import PostgresQueue

REACH = 0.5  # of one statement that checks the same

CHECK_ALL = """
select count(*) filter (where content_hash = sha256(convert_to(body, 'UTF8'))
                          and vector_dims(embedding) = 384
                          and abs(vector_norm(embedding) - 1) < 0.01
                          and vector_hash = {vector_hash})
  from docs left join embedding_queue on record_id = docs.id::text
"""


def verification(server: Server, rows: int, repetitions: int) -> Iterator[Figure]:
    """Rows a second that are compared with their jobs and their vectors. Nothing is found."""
    with (
        server.database(NARROW) as database,
        database.queue() as queue,
        database.connect() as connection,
    ):
        database.refill("docs", rows)
        complete_all(connection, rows)
        database.tidy()
        check_all = CHECK_ALL.format(vector_hash=vector_hash_sql(connection))
        limits, samples = [], []
        for _ in range(repetitions):
            limits.append(rows / seconds(lambda: connection.execute(check_all)))
            samples.append(rows / seconds(lambda: verify_all(queue, rows)))
    yield Figure(
        what=f"verify: {rows:,} rows, limit: one statement for all",
        unit="rows/s",
        limits=limits,
        samples=samples,
        at_least=REACH,
    )


def complete_all(connection: Connection, rows: int, dimensions: int = NARROW) -> None:
    """Write vectors in the order of the key, and complete the jobs, as workers do."""
    connection.execute("set session_replication_role = replica")
    connection.execute("update embedding_targets set model = 'benchmark:model'")
    for first in range(0, rows, 1000):
        write_vectors(connection, "docs", range(first, min(first + 1000, rows)), dimensions)
    connection.execute(
        "update embedding_queue set status = 'completed', model = 'benchmark:model',"
        " content_hash = sha256(convert_to(body, 'UTF8')),"
        f" vector_hash = {vector_hash_sql(connection)}"
        " from docs where record_id = docs.id::text"
    )


def vector_hash_sql(connection: Connection) -> str:
    """Return SQL for the hash of a vector of `docs`."""
    sql: str = value(
        connection,
        "select embedding.vector_hash_sql(t, 'embedding') from embedding_targets as t limit 1",
    )
    return sql


def verify_all(queue: PostgresQueue, rows: int) -> None:
    """Verify all rows. Raises RuntimeError unless they are as `complete_all` made them."""
    target = queue.target("docs", "embedding")
    counts = Counter[str]()
    after: str | None = None
    while not counts or after is not None:
        found = queue.verify(target, after, width=NARROW, usual_length=1.0, tolerance=0.01)
        counts.update({each.finding: each.found for each in found})
        after = found[0].looked_to
    if +counts != Counter(rows=rows, texts=rows, vectors=rows):
        raise RuntimeError(f"not as it was made: {+counts}")


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action took."""
    began = time.monotonic()
    action()
    return time.monotonic() - began
