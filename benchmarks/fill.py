"""How fast a re-embedding fills its new vectors beside an hnsw index over the old ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.database import NARROW, Database, Server
from benchmarks.report import Figure
from benchmarks.verification import complete_all, seconds
from benchmarks.work import BATCH, MODEL, drain
from worker.queue import Store

NAME = ("docs", "embedding")
INDEX = "create index on docs using hnsw (embedding vector_cosine_ops)"
REACH = 0.8  # of the rate without an index


@dataclass(frozen=True, slots=True)
class Size:
    """A table of `rows` rows, of which each measurement fills `filled`."""

    rows: int
    filled: int
    repetitions: int


FULL = Size(10_000, 2_000, 3)
QUICK = Size(600, 200, 1)


def fill(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second, from claim to completion, of one process."""
    with server.database(NARROW) as bare, server.database(NARROW) as indexed:
        for database in (bare, indexed):
            database.refill("docs", size.rows)
            with database.connect() as connection:
                complete_all(connection, size.rows)
        with indexed.connect() as connection:
            connection.execute(INDEX)
        limits, tables, columns = [], [], []
        for _ in range(size.repetitions):
            limits.append(rate(bare, "table", size))
            tables.append(rate(indexed, "table", size))
            columns.append(rate(indexed, "column", size))
    what = f"fill: {size.rows:,} rows with an hnsw index, into a"
    yield Figure(
        what=f"{what} side table (limit: without the index)",
        unit="rows/s",
        limits=limits,
        samples=tables,
        at_least=REACH,
    )
    yield Figure(
        what=f"{what} second column (limit: a side table)",
        unit="rows/s",
        limits=tables,
        samples=columns,
    )


def rate(database: Database, store: Store, size: Size) -> float:
    """Begin a re-embedding, measure how fast it is filled, and cancel it."""
    database.tidy()
    with database.queue() as queue:
        begun = queue.start_reembedding(*NAME, MODEL, NARROW, config={"store": store})
        target = queue.target("docs", begun.new_column)
        while queue.backfill(target, 1_000):
            pass
        drain(queue, NARROW, BATCH, BATCH)  # from then on, plans are kept
        took = seconds(lambda: drain(queue, NARROW, BATCH, size.filled))
        queue.cancel_reembedding(*NAME)
    return size.filled / took


GROUPS = {"fill": fill}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Measure the figures of the chosen groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)
