"""More workers, more jobs, and many workers with one rate limit.

The workers, their provider and Postgres share the cores of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import queue
from benchmarks.allowance import simulate
from benchmarks.api import LATENCY, WRITTEN_AT_ONCE, run_worker
from benchmarks.database import NARROW, WIDE, Database, Server, value
from benchmarks.latency import SETTINGS as UNTHROTTLED
from benchmarks.provider import Behaviour, Provider, provider
from benchmarks.report import Figure
from benchmarks.work import BATCH, Drain, drain, drain_rate
from benchmarks.worker_processes import run_processes

AT_ONCE = "1"  # requests of each worker, so that its latency is its limit
ALLOWED = 6000  # requests a minute, of all workers together
LONGEST_START = 60.0  # seconds
AT_WORK = "select count(distinct worker)::integer from embedding_queue where status = 'processing'"
DIFFERENT = 1_000  # vectors of the benchmarks; an index stores equal ones once
INDEX = (
    "create index of_different_vectors on docs using hnsw (embedding vector_cosine_ops)"
    " where id < 1000"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    workers: tuple[int, ...] = (1, 2, 4, 8)
    rows: int = 100_000  # more than are embedded in `seconds`
    rows_of_limit: int = 20_000
    seconds: float = 10.0
    stored: int = 10_000  # rows
    repetitions: int = 3
    sharing: int = 100  # workers with one rate limit
    virtual_seconds: float = 900.0


FULL = Size()
QUICK = Size(
    workers=(1, 2),
    rows=20_000,
    rows_of_limit=2_000,
    seconds=2.0,
    stored=1_000,
    repetitions=1,
    virtual_seconds=60.0,
)


def workers(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second of several workers, compared with as many times one worker, or with what the
    database takes of as many processes that only claim and complete."""
    rates: dict[int, list[float]] = {number: [] for number in size.workers}
    taken: dict[int, list[float]] = {number: [] for number in size.workers}
    with (
        server.database(WIDE) as database,
        server.database(WIDE) as another,  # since a column holds vectors of one model
        provider(WIDE) as api,
    ):
        api.behave(Behaviour(LATENCY))
        for number in size.repetitions * size.workers:
            rates[number].append(rate_at_work(database, api, number, size))
            with run_processes(number) as processes:
                work = Drain(another, WRITTEN_AT_ONCE)
                taken[number].append(drain_rate(another, processes, size.rows_of_limit, work))
    for number in size.workers:
        yield Figure(
            what=f"workers: what the database takes of {number} processes",
            unit="rows/s",
            samples=taken[number],
        )
        both = zip(rates[1], taken[number], strict=True)
        yield Figure(
            what=f"workers: {number}, limited by {number} times one worker or the database",
            unit="rows/s",
            samples=rates[number],
            limits=[min(number * alone, of_database) for alone, of_database in both],
            at_least=0.8,
        )


def rate_at_work(database: Database, api: Provider, number: int, size: Size) -> float:
    """Return the rows that workers complete in a second while all are at work. Their start is not
    measured, which takes longer the more of them share the cores."""
    database.refill("docs", size.rows)
    with database.queue() as queue_of_all, at_work(database, api, number):
        before, began = queue_of_all.status()[0].completed, time.monotonic()
        time.sleep(size.seconds)
        after, seconds = queue_of_all.status()[0], time.monotonic() - began
    if not after.pending:
        raise RuntimeError(f"{number} workers embedded all {size.rows} rows: take more")
    return (after.completed - before) / seconds


@contextmanager
def at_work(database: Database, api: Provider, number: int) -> Iterator[None]:
    """Run workers, of which each holds jobs. Their queue must last."""
    with ExitStack() as stack, database.connect() as connection:
        running = [
            stack.enter_context(
                run_worker(database, api, **UNTHROTTLED, EMBEDDING_MAX_CONCURRENCY=AT_ONCE)
            )
            for _ in range(number)
        ]
        until = time.monotonic() + LONGEST_START
        while value(connection, AT_WORK) < number:
            if time.monotonic() > until:
                raise RuntimeError(f"{number} workers were not at work in {LONGEST_START:.0f} s")
            time.sleep(0.1)
        yield
        for process in running:
            process.terminate()
        for process in running:
            process.communicate()


def allowance(server: Server, size: Size) -> Iterator[Figure]:
    """Many workers with one rate limit, in virtual time: one that answers report, one that they do
    not report, and the same with its share as EMBEDDING_RPM of each worker."""
    number = size.sharing
    cases: dict[str, tuple[bool, int | None]] = {
        "limit in headers": (False, None),
        "limit not stated": (True, None),
        "limit not stated, but EMBEDDING_RPM": (True, ALLOWED // number),
    }
    for how, (silent, rpm) in cases.items():
        shares = simulate(
            number, ALLOWED, silent=silent, rpm_of_each=rpm, seconds=size.virtual_seconds
        )
        what = f"allowance: {number} workers, {ALLOWED} requests a minute, {how}:"
        yield Figure(what=f"{what} used", unit="of it", samples=[shares.used], at_least=0.95)
        yield Figure(
            what=f"{what} refused",
            unit="%",
            samples=[100 * shares.refused],
            at_most=1.0,
        )
        yield Figure(
            what=f"{what} the worker with the fewest answers",
            unit="of the mean",
            samples=[shares.least],
            at_least=0.15,
        )


def storage(server: Server, size: Size) -> Iterator[Figure]:
    """Bytes of a row: its job, its vector, and its place in an hnsw index."""
    for dimensions in (NARROW, WIDE):
        with server.database(dimensions) as database:
            database.refill("docs", size.stored)
            without = table_bytes(database)
            with database.queue() as its_queue:
                drain(its_queue, dimensions, BATCH)
            vectors = table_bytes(database) - without
            with database.connect() as connection:
                jobs = value(connection, "select pg_total_relation_size('embedding_queue')")
                connection.execute(INDEX)
                index = value(connection, "select pg_relation_size('of_different_vectors')")
        for what, size_of_all, rows in (
            ("job, with the indexes of the queue", jobs, size.stored),
            ("vector", vectors, size.stored),
            ("place in an hnsw index", index, DIFFERENT),
        ):
            what = f"storage: {dimensions} dimensions, {what}"
            yield Figure(what=what, unit="bytes a row", samples=[size_of_all / rows])


def table_bytes(database: Database) -> int:
    """Return the size of `docs` without dead rows."""
    with database.connect() as connection:
        connection.execute("vacuum full docs")
        return int(value(connection, "select pg_total_relation_size('docs')"))


def long_queue(server: Server, size: Size) -> Iterator[Figure]:
    """Claims and views with ten million jobs: a group of `scripts/bench queue`."""
    yield from queue.scale(server, queue.QUICK if size is QUICK else queue.FULL)


GROUPS = {"workers": workers, "allowance": allowance, "storage": storage, "long_queue": long_queue}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)
