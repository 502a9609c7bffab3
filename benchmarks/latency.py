"""The time from the INSERT of a row to its vector, compared with the same steps in SQL only.

The worker is `worker run`, a separate process with the local model; another connection polls for
the vectors. The limit is insert, claim and complete one after another over one connection, with a
vector that already exists. Server, worker, writer and poller share the cores of this machine.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import quantiles
from threading import Event, Thread

from benchmarks.database import Connection, Database, Server, Table, value
from benchmarks.queue import OF_LOCAL_MODEL, Samples
from benchmarks.report import Figure
from benchmarks.usage import REPOSITORY
from benchmarks.work import WARM_UP, claim, complete
from tests.pgbouncer import NO_PGBOUNCER, pgbouncer, pgbouncer_program

LONGEST_WAIT = 60.0  # seconds
FIRST_ROW = -1_000_000  # is embedded before the measurement
WATCHED_EVERY = 0.001  # seconds; the precision of the measurement

# Load from other processes must not throttle the worker: the queue is what is measured.
SETTINGS = {"WORKER_MAX_LOAD": "1000", "WORKER_MAX_CPU_PRESSURE": "100"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    singles: int = 60  # rows that are inserted alone
    pauses: tuple[float, float] = (0.05, 4.0)  # seconds between two of them, from … to
    bursts: int = 20
    rows_of_burst: int = 50  # one transaction for each
    limits: int = 500  # rows


FULL = Size()
QUICK = Size(singles=15, pauses=(0.05, 0.5), bursts=4, limits=100)


@dataclass(slots=True)
class Writer:
    """Inserts rows, and records when a poller saw the vector of each."""

    database: Database
    table: Table = "docs"
    inserted: dict[int, float] = field(default_factory=dict)
    """When the INSERT of each row began."""
    seen: dict[int, float] = field(default_factory=dict)
    _ended: Event = field(default_factory=Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        watcher = Thread(target=self._watch)
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            watcher.join()

    def insert(self, connection: Connection, row: int) -> None:
        self.inserted[row] = time.perf_counter()
        connection.execute(insert_into(self.table), [row, f"row {row} of the benchmark"])

    def latencies(self, rows: Iterable[int]) -> Samples:
        """Return milliseconds, once all vectors exist. Raises RuntimeError if one is missing."""
        awaited = list(rows)
        until = time.monotonic() + LONGEST_WAIT
        while not all(row in self.seen for row in awaited):
            if time.monotonic() > until:
                raise RuntimeError("a row did not get its vector")
            time.sleep(0.01)
        return [1000 * (self.seen[row] - self.inserted[row]) for row in awaited]

    def _watch(self) -> None:
        embedded = f"select id from {self.table} where id = any (%s) and embedding is not null"
        with self.database.connect() as connection:
            while not self._ended.wait(WATCHED_EVERY):
                missing = [row for row in list(self.inserted) if row not in self.seen]
                if missing:
                    found = connection.execute(embedded, [missing]).fetchall()
                    now = time.perf_counter()
                    self.seen.update({row: now for (row,) in found})


def insert_into(table: Table) -> str:
    return f"insert into {table} (id, body) values (%s, %s)"


def direct(server: Server, size: Size) -> Iterator[Figure]:
    """A worker that a NOTIFY wakes."""
    with server.database(OF_LOCAL_MODEL) as database, server.database(OF_LOCAL_MODEL) as by_sql:
        yield from latency(database, database, by_sql, size, "woken")


def pooled(server: Server, size: Size) -> Iterator[Figure]:
    """A worker behind a pooler, which no NOTIFY reaches, so it polls."""
    if not pgbouncer_program():
        raise RuntimeError(NO_PGBOUNCER)
    with (
        server.database(OF_LOCAL_MODEL) as database,
        server.database(OF_LOCAL_MODEL) as by_sql,
        pgbouncer(database.url) as url,
    ):
        yield from latency(database, replace(database, url=url), by_sql, size, "behind a pooler")


GROUPS: dict[str, Callable[[Server, Size], Iterator[Figure]]] = {"direct": direct}
if pgbouncer_program():
    GROUPS["pooled"] = pooled


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def latency(
    database: Database, of_worker: Database, by_sql: Database, size: Size, how: str
) -> Iterator[Figure]:
    """Measure rows that are inserted alone and in bursts, and the limit before and after them.

    The limit has a database of its own, since a column holds the vectors of one model.
    """
    limits = limit(by_sql, range(size.limits // 2))
    with worker(of_worker, database), database.connect() as connection:
        writer = Writer(database)
        with writer.watched():
            alone = rows_alone(writer, connection, size)
            in_bursts = rows_in_bursts(writer, connection, size)
    limits += limit(by_sql, range(-size.limits // 2, 0))
    yield from figures(f"{how}, rows alone", alone, limits)
    yield from figures(f"{how}, bursts of {size.rows_of_burst}", in_bursts, limits)


def rows_alone(writer: Writer, connection: Connection, size: Size) -> Samples:
    choice = random.Random(1)
    rows = range(1_000_000, 1_000_000 + size.singles)
    for row in rows:
        time.sleep(choice.uniform(*size.pauses))
        writer.insert(connection, row)
    return writer.latencies(rows)


def rows_in_bursts(writer: Writer, connection: Connection, size: Size) -> Samples:
    choice = random.Random(1)
    samples: Samples = []
    for burst in range(size.bursts):
        time.sleep(choice.uniform(*size.pauses))
        rows = range(2_000_000 + burst * 1000, 2_000_000 + burst * 1000 + size.rows_of_burst)
        for row in rows:
            writer.insert(connection, row)
        samples += writer.latencies(rows)
    return samples


def limit(database: Database, rows: Iterable[int]) -> Samples:
    """Return the milliseconds of insert, claim and complete for each row."""
    samples: Samples = []
    with database.connect() as connection, database.queue() as queue:
        for row in rows:
            begun = time.perf_counter()
            connection.execute(insert_into("docs"), [row, f"row {row} of the benchmark"])
            complete(queue, claim(queue, 1), database.dimensions)
            samples.append(1000 * (time.perf_counter() - begun))
    return samples[WARM_UP:]


def figures(what: str, samples: Samples, limits: Samples) -> Iterator[Figure]:
    """Yield the median, the 95th percentile and the maximum, each with that of the limit."""
    measures: dict[str, Callable[[Samples], float]] = {
        "p50": lambda given: quantiles(given, n=100, method="inclusive")[49],
        "p95": lambda given: quantiles(given, n=100, method="inclusive")[94],
        "max": max,
    }
    for name, measured in measures.items():
        yield Figure(
            what=f"{what}: {name}",
            unit="ms",
            samples=[measured(samples)],
            limits=[measured(limits)],
        )


@contextmanager
def worker(of_worker: Database, database: Database, **settings: str) -> Iterator[None]:
    """Run a `worker run` that has embedded a first row and is waiting."""
    command = [sys.executable, "-m", "worker", "run"]
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "DATABASE_URL": of_worker.url,
        **SETTINGS,
        **settings,
    }
    waits = "select exists (select from embedding_workers where state = 'waiting')"
    with service(command, environment, database, "docs", waits):
        yield


@contextmanager
def service(
    command: Sequence[str],
    environment: Mapping[str, str],
    database: Database,
    table: Table,
    waits: str = "select true",
) -> Iterator[None]:
    """Run a worker that has embedded a first row, and for which the query `waits` is true."""
    embedded = f"select embedding is not null from {table} where id = {FIRST_ROW}"
    with (
        tempfile.TemporaryDirectory() as folder,  # a folder without a .env
        database.connect() as connection,
        subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            connection.execute(insert_into(table), [FIRST_ROW, "the first row"])
            until = time.monotonic() + LONGEST_WAIT
            while not all(value(connection, query) for query in (embedded, waits)):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{' '.join(command)} ended, or did not start to wait")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
