"""The worker beside pgai: the same server, rows and stand-in for the model, in the same run.

pgai's vectorizer writes into a column of its table, as the worker does. Tables and texts are equal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from benchmarks import latency, pgai
from benchmarks.api import LATENCY, MODEL
from benchmarks.database import NARROW, TEXTS, WIDE, Connection, Database, Server, Table
from benchmarks.provider import Behaviour, Provider, provider
from benchmarks.report import Figure
from benchmarks.statements import Statement, single_edits, statements
from benchmarks.usage import REPOSITORY, Usage, usage

PGAI = f"pgai {pgai.VERSION}"
TABLES: tuple[Table, ...] = ("plain", "docs", "vectorized")
NO_MODEL = "http://127.0.0.1:9/v1"  # never called, where no worker runs
SINGLE_EDITS_AT_MOST = 1.3  # over a connection, whose round trip is part of the edit

BEST = pgai.Processing(batch_size=2048, concurrency=5)
"""The fastest of those tried that does not exhaust the locks of a server with default settings."""
TIMES_DEFAULT, TIMES_BEST = 25, 4

POLL_EVERY = "1s"  # the shortest interval that pgai's worker takes; its default is 5 minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    rows: int = TEXTS
    single_rows: int = 2_000  # one transaction for each
    few_rows: int = 500  # the CPU time of a run over these is taken for that of the start
    statements: int = 5  # repetitions
    runs: int = 2  # repetitions
    latency: latency.Size = latency.FULL


FULL = Size()
QUICK = Size(rows=300, single_rows=50, few_rows=100, statements=1, runs=1, latency=latency.QUICK)


# -- writers: what the statements of an application cost


def writers(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of a statement on a table that is plain, watched, or vectorized by pgai."""
    with server.database(NARROW) as bare:
        database = pgai.vectorize(bare, NO_MODEL, pgai.Processing())
        with database.connect() as connection:
            for statement in statements(size.rows, size.single_rows):
                yield from compare(statement, database, connection, size.statements)
        edits = single_edits(size.single_rows)
        over_tcp = replace(edits, what=f"{edits.what}, over TCP", at_most=SINGLE_EDITS_AT_MOST)
        with server.over_tcp(database).connect() as connection:
            yield from compare(over_tcp, database, connection, size.statements)


def compare(
    statement: Statement, database: Database, connection: Connection, repetitions: int
) -> Iterator[Figure]:
    """Measure the statement on the three tables in turn."""
    samples: dict[Table, list[float]] = {table: [] for table in TABLES}
    for _ in range(repetitions):
        for table in TABLES:
            samples[table].append(statement.milliseconds(database, connection, table))
    plain, ours, theirs = (samples[table] for table in TABLES)
    what = f"writers: {statement.what}"
    yield Figure(what=what, unit="ms", limits=plain, samples=ours, at_most=statement.at_most)
    yield Figure(what=f"{what}, {PGAI}", unit="ms", limits=plain, samples=theirs)
    yield Figure(what=f"{what}, limit: {PGAI}", unit="ms", limits=theirs, samples=ours, at_most=1.0)


# -- throughput and memory: runs until nothing is due


@dataclass(frozen=True, slots=True)
class Contender:
    """A worker, and the table whose rows it embeds."""

    what: str
    database: Database
    table: Table
    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a worker until nothing is due."""

    rows_per_second: float
    used: Usage


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of a contender; `cpu` is in milliseconds a row, without the start of the worker."""

    what: str
    rows_per_second: list[float]
    cpu: list[float]
    peak: list[float]


def throughput(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second, and CPU time of the worker a row."""
    ours, by_default, at_best = results(server, size)
    for theirs, times in ((by_default, TIMES_DEFAULT), (at_best, TIMES_BEST)):
        yield Figure(
            what=f"throughput: {ours.what}, limit: {theirs.what}",
            unit="rows/s",
            limits=theirs.rows_per_second,
            samples=ours.rows_per_second,
            at_least=times,
        )
        yield Figure(
            what=f"throughput: CPU time of the worker, limit: {theirs.what}",
            unit="ms a row",
            limits=theirs.cpu,
            samples=ours.cpu,
        )


def memory(server: Server, size: Size) -> Iterator[Figure]:
    """The peak memory of the worker process in the runs of `throughput`."""
    ours, *others = results(server, size)
    for theirs in others:
        what = f"memory: {ours.what}, limit: {theirs.what}"
        yield Figure(what=what, unit="MB", limits=theirs.peak, samples=ours.peak)


@cache
def results(server: Server, size: Size) -> tuple[Result, ...]:
    """Run the worker, pgai with its default settings, and pgai with its best, in turn."""
    with provider(WIDE) as api, contenders(server, api) as all_three:
        api.behave(Behaviour(latency=LATENCY))
        few = [embed(contender, api, size.few_rows) for contender in all_three]
        rounds = [
            [embed(contender, api, size.rows) for contender in all_three] for _ in range(size.runs)
        ]
    return tuple(
        Result(
            what=contender.what,
            rows_per_second=[run.rows_per_second for run in runs],
            cpu=[
                1000 * (run.used.cpu - start.used.cpu) / (size.rows - size.few_rows) for run in runs
            ],
            peak=[run.used.peak for run in runs],
        )
        for contender, start, runs in zip(all_three, few, zip(*rounds, strict=True), strict=True)
    )


@contextmanager
def contenders(server: Server, api: Provider) -> Iterator[tuple[Contender, ...]]:
    """Yield the worker and pgai, both with their default settings, and pgai with its best."""
    default = pgai.Processing()
    with server.database(WIDE) as bare, server.database(WIDE) as another:
        database = pgai.vectorize(bare, api.base_url, default)
        command, environment = of_worker(database, api, "process")
        yield (
            Contender("default settings", database, "docs", command, environment),
            of_pgai(database, default),
            of_pgai(pgai.vectorize(another, api.base_url, BEST), BEST),
        )


def of_worker(database: Database, api: Provider, *arguments: str) -> pgai.Program:
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "DATABASE_URL": database.url,
        "EMBEDDING_MODEL": MODEL,
        "OPENAI_BASE_URL": api.base_url,
    }
    return [sys.executable, "-m", "worker", *arguments], environment


def of_pgai(database: Database, processing: pgai.Processing) -> Contender:
    command, environment = pgai.worker(database, "--once")
    return Contender(f"{PGAI}, {processing}", database, "vectorized", command, environment)


def embed(contender: Contender, api: Provider, rows: int) -> Run:
    """Measure from the first request to the end of the process."""
    contender.database.refill(contender.table, rows)
    api.answers()
    used = usage(contender.command, contender.environment)
    ended = time.monotonic()
    contender.database.check_all_embedded(contender.table)
    answered, _ = api.answers()
    return Run(rows / (ended - (answered[0] - LATENCY)), used)


# -- latency: from the INSERT of a row to its vector


def from_insert(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds from INSERT to vector with both services, each row alone, without latency."""
    with provider(WIDE) as api, server.database(WIDE) as bare:
        database = pgai.vectorize(bare, api.base_url, pgai.Processing())
        services: dict[Table, pgai.Program] = {
            "vectorized": pgai.worker(database, "--poll-interval", POLL_EVERY),
            "docs": of_worker(database, api, "run"),
        }
        theirs, ours = (
            alone(database, table, program, size.latency) for table, program in services.items()
        )
    yield Figure(
        what=f"latency: from INSERT to vector, p50, limit: {PGAI}, poll interval {POLL_EVERY}",
        unit="ms",
        limits=theirs,
        samples=ours,
        at_most=1.0,
    )


def alone(
    database: Database, table: Table, program: pgai.Program, size: latency.Size
) -> list[float]:
    """Run a service, and insert rows with pauses. Returns the milliseconds of each."""
    with latency.service(*program, database, table), database.connect() as connection:
        writer = latency.Writer(database, table)
        with writer.watched():
            return latency.rows_alone(writer, connection, size)


Group = Callable[[Server, Size], Iterator[Figure]]

GROUPS: Mapping[str, Group] = {
    "writers": writers,
    "throughput": throughput,
    "memory": memory,
    "latency": from_insert,
}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups. Raises Skipped if pgai cannot be installed."""
    pgai.install()
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)
