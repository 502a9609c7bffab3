"""How fast a re-embedding fills its new vectors, how long its other steps take, and what its second
target costs a writer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event, Timer
from typing import LiteralString

from benchmarks.database import NARROW, Connection, Database, Server, value
from benchmarks.report import Figure
from benchmarks.statements import statements
from benchmarks.verification import complete_all, seconds
from benchmarks.work import BATCH, MODEL, drain
from worker.operations.reembed import finish
from worker.queue import Store
from worker.queue.postgres import PostgresQueue

NAME = ("docs", "embedding")
INDEX = "create index on docs using hnsw (embedding vector_cosine_ops)"
REACH = 0.8  # of the rate without an index

TINY = 3  # dimensions, where the vectors do not matter
SWAP_AT_MOST = 100  # milliseconds
ROLLBACK_AT_MOST = 1_000
WRITTEN = 1_000  # rows that are edited before the rollback, and as many deleted and moved
WRITE_AT_MOST = 1_000
READ_AT_MOST = 150  # milliseconds: a step waits 100 for a lock
TWO_TARGETS_AT_MOST = 2.2

EDIT = "update docs set body = body || '.' where id = (select min(id) from docs)"
READ = "select from docs limit 1"
ENDS = (("the old vectors are dropped", False), ("the new are renamed", True))
WRITES = (
    "one INSERT … SELECT",
    "one UPDATE of the text",
    "UPDATEs of the text of one row",
    "one DELETE",
)


@dataclass(frozen=True, slots=True)
class Size:
    """A table of `rows` rows, of which each measurement fills `filled`; one of `many` rows for the
    other steps. A transaction stays open for `open_for` seconds. `singles` edits are of one row."""

    rows: int
    filled: int
    repetitions: int
    many: int
    open_for: float
    singles: int


FULL = Size(10_000, 2_000, 3, 1_000_000, 60.0, 2_000)
QUICK = Size(600, 200, 1, 5_000, 2.0, 50)


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


def steps(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of a swap and of the way back, and of writes beside the steps that end it."""
    with server.database(TINY) as database, database.queue() as queue:
        database.refill("docs", size.many)
        with database.connect() as connection:
            complete_all(connection, size.many, TINY)
            fill_at_once(queue, connection)
            database.tidy()
            swap = milliseconds(lambda: queue.swap_reembedding(*NAME))
            write_much(connection, size.many)
            drain(queue, TINY, 1_000)
            rollback = milliseconds(lambda: queue.rollback_reembedding(*NAME))
            check_in_step(connection)
            swapped = queue.swap_reembedding(*NAME)
        what = f"steps: {size.many:,} rows"
        yield Figure(what=f"{what}, swap", unit="ms", samples=[swap], at_most=SWAP_AT_MOST)
        yield Figure(
            what=f"{what}, rollback after edits, deletes and moved keys",
            unit="ms",
            samples=[rollback],
            at_most=ROLLBACK_AT_MOST,
        )
        for step, rename in ENDS:
            end = partial(finish, queue, swapped, rename=rename)
            took, longest = beside(database, EDIT, end)
            yield Figure(what=f"{what}, {step}", unit="ms", samples=[took])
            yield Figure(
                what=f"{what}, longest write while {step}",
                unit="ms",
                samples=[longest],
                at_most=WRITE_AT_MOST,
            )
            [swapped] = queue.reembeddings()


def reader(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of a swap, and of reads beside the steps that end it, while a transaction that
    has read the table stays open."""
    with (
        server.database(TINY) as database,
        database.queue() as queue,
        database.connect() as open_one,
    ):
        database.refill("docs", size.rows)
        with database.connect() as connection:
            complete_all(connection, size.rows, TINY)
            fill_at_once(queue, connection)
        open_one.execute("begin")
        open_one.execute(READ)
        swap = milliseconds(lambda: queue.swap_reembedding(*NAME))
        open_one.execute("rollback")
        what = f"reader: a transaction open for {size.open_for:g} s"
        yield Figure(what=f"{what}, swap", unit="ms", samples=[swap], at_most=SWAP_AT_MOST)
        for step, rename in ENDS:
            [swapped] = queue.reembeddings()
            open_one.execute("begin")
            open_one.execute(READ)
            Timer(size.open_for, open_one.execute, ["rollback"]).start()
            took, longest = beside(database, READ, partial(finish, queue, swapped, rename=rename))
            if took < size.open_for * 500:  # half of it
                raise RuntimeError("the step did not wait for the open transaction")
            yield Figure(
                what=f"{what}, longest read until {step}",
                unit="ms",
                samples=[longest],
                at_most=READ_AT_MOST,
            )


def writers(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of statements over a table with two targets, compared with one."""
    chosen = [each for each in statements(size.rows, size.singles) if each.what in WRITES]
    with (
        server.database(NARROW) as single,
        server.database(NARROW) as double,
        single.connect() as of_one,
        double.connect() as of_two,
    ):
        with double.queue() as queue:
            queue.start_reembedding(*NAME, MODEL, NARROW, config={"store": "column"})
        for statement in chosen:
            one, two = [], []
            for _ in range(size.repetitions):
                one.append(statement.milliseconds(single, of_one, "docs"))
                two.append(statement.milliseconds(double, of_two, "docs"))
            what = f"writers: {statement.what}, {statement.rows:,} rows"
            yield Figure(
                what=f"{what}, two targets (limit: one)",
                unit="ms",
                limits=one,
                samples=two,
                at_most=TWO_TARGETS_AT_MOST,
            )


def fill_at_once(queue: PostgresQueue, connection: Connection) -> None:
    """Begin a re-embedding and fill its new column, as workers do; then make it ready."""
    begun = queue.start_reembedding(*NAME, MODEL, TINY, config={"store": "column"})
    connection.execute(f"update docs set {begun.new_column} = embedding")
    connection.execute(
        "insert into embedding_queue (target_id, table_name, record_id, embedding_column, status,"
        " model, content_hash, vector_hash)"
        " select %s, table_name, record_id, %s, 'completed', %s, content_hash, vector_hash"
        " from embedding_queue where target_id = %s",
        [begun.new_target, begun.new_column, MODEL, begun.old_target],
    )
    connection.execute("reset session_replication_role")
    connection.execute("select recount_embeddings()")
    for stage in ("indexing", "verifying", "ready"):
        begun = queue.advance_reembedding(begun, stage)


def write_much(connection: Connection, rows: int) -> None:
    """Edit texts, delete rows, and give rows another key."""
    few = min(WRITTEN, rows // 4)
    connection.execute("update docs set body = body || '.' where id < %s", [few])
    connection.execute("delete from docs where id between %s and %s", [few, 2 * few])
    connection.execute("update docs set id = -id where id > %s and id < %s", [2 * few, 3 * few])


def check_in_step(connection: Connection) -> None:
    """Raise RuntimeError unless both columns have a vector of each text."""
    stale = value(
        connection,
        "select count(*) from docs cross join embedding_targets as target"
        " left join embedding_queue as job"
        " on job.target_id = target.id and record_id = docs.id::text"
        " where content_hash is distinct from sha256(convert_to(body, 'UTF8'))"
        " or status <> 'completed' or embedding is null or embedding_2 is null",
    )
    if stale:
        raise RuntimeError(f"{stale} vectors are of another text")


def beside(
    database: Database, statement: LiteralString, action: Callable[[], object]
) -> tuple[float, float]:
    """Return how long an action takes, and how long at most a statement of another session
    meanwhile."""
    ended = Event()

    def repeat() -> float:
        longest = 0.0
        with database.connect() as connection:
            while not ended.wait(0.01):
                longest = max(longest, milliseconds(lambda: connection.execute(statement)))
        return longest

    with ThreadPoolExecutor(1) as pool:
        repeating = pool.submit(repeat)
        time.sleep(0.5)
        try:
            took = milliseconds(action)
        finally:
            ended.set()
        return took, repeating.result()


def milliseconds(action: Callable[[], object]) -> float:
    return seconds(action) * 1000


GROUPS = {"fill": fill, "steps": steps, "reader": reader, "writers": writers}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Measure the figures of the chosen groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)
