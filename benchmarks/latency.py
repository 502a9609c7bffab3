"""The time from the INSERT of a row to its vector, compared with the same steps in SQL only.

The worker is `worker run`, a separate process with the local model; another connection watches for
the vectors. The limit is insert, claim and complete one after another over one connection, with a
vector that already exists. Server, worker, writer and watcher share the cores of this machine.

Where no NOTIFY reaches the worker, it polls: also measured is what that costs while it is idle.
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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread

from psycopg import sql

from benchmarks.database import Connection, Database, Server, Table, value
from benchmarks.queue import OF_LOCAL_MODEL, Samples
from benchmarks.report import Figure
from benchmarks.usage import REPOSITORY
from benchmarks.work import WARM_UP, claim, complete
from tests.pgbouncer import NO_PGBOUNCER, pgbouncer, pgbouncer_program
from tests.supabase_project import NO_SUPABASE, data_api, make_project, supabase_is_here

LONGEST_WAIT = 60.0  # seconds
FIRST_ROW = -1_000_000  # is embedded before the measurement
WATCHED_EVERY = 0.001  # seconds; the precision of the measurement
MINUTE = 60.0  # seconds

# Load from other processes must not throttle the worker: the queue is what is measured.
SETTINGS = {"WORKER_MAX_LOAD": "1000", "WORKER_MAX_CPU_PRESSURE": "100"}
# A worker that sleeps polls as rarely as one that has been idle for hours.
SLEEPS_SOON = {"WORKER_DEEP_SLEEP_AFTER": "1"}
COUNTED_WITHIN = 2.0  # seconds; sessions report their calls once a second
PAUSE_ASLEEP = 4.0  # seconds, so that it sleeps again

# The goals for a worker that polls.
MOST_MS = 200.0  # within a minute of other work
MOST_CPU = 0.5  # percent of a core, when it is idle for long
MOST_LOOKS = 1.0  # a second, when it is idle for long


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    singles: int = 60  # rows that are inserted alone
    pauses: tuple[float, float] = (0.05, 4.0)  # seconds between two of them, from … to
    bursts: int = 20
    rows_of_burst: int = 50  # one transaction for each
    limits: int = 500  # rows
    polled: int = 12  # rows that are inserted alone for a worker that polls ...
    idle: float = MINUTE  # ... after up to so many seconds without work; the cost is also measured


FULL = Size()
QUICK = Size(singles=15, pauses=(0.05, 0.5), bursts=4, limits=100, polled=3, idle=5.0)


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
        yield from latency({"DATABASE_URL": database.url}, database, by_sql, size, "woken")


def pooled(server: Server, size: Size) -> Iterator[Figure]:
    """A worker behind a pooler in transaction mode, so it polls."""
    if not pgbouncer_program():
        raise RuntimeError(NO_PGBOUNCER)
    how = "behind a pooler"
    with (
        server.database(OF_LOCAL_MODEL) as database,
        server.database(OF_LOCAL_MODEL) as by_sql,
        pgbouncer(database.url) as url,
    ):
        yield from latency({"DATABASE_URL": url}, database, by_sql, size, how)
        yield from polling({"DATABASE_URL": url}, database, size, how)


def over_data_api(server: Server, size: Size) -> Iterator[Figure]:
    """A worker that uses only the Data API, so it polls."""
    if not supabase_is_here():
        raise RuntimeError(NO_SUPABASE)
    how = "over the Data API"
    with (
        server.database(OF_LOCAL_MODEL, make_project) as database,
        server.database(OF_LOCAL_MODEL, make_project) as by_sql,
        data_api(database.url) as project,
    ):
        access = {"SUPABASE_URL": project.url, "SUPABASE_SERVICE_ROLE_KEY": project.secret_key}
        yield from latency(access, database, by_sql, size, how)
        yield from polling(access, database, size, how)


GROUPS: dict[str, Callable[[Server, Size], Iterator[Figure]]] = {"direct": direct}
if pgbouncer_program():
    GROUPS["pooled"] = pooled
if supabase_is_here():
    GROUPS["data_api"] = over_data_api


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def latency(
    access: Mapping[str, str], database: Database, by_sql: Database, size: Size, how: str
) -> Iterator[Figure]:
    """Measure rows that are inserted alone and in bursts, and the limit before and after them.

    `access`: the settings by which the worker reaches the database. The limit has a database of its
    own, since a column holds the vectors of one model.
    """
    limits = limit(by_sql, range(size.limits // 2))
    with worker(access, database), database.connect() as connection:
        writer = Writer(database)
        with writer.watched():
            alone = rows_alone(writer, connection, size)
            in_bursts = rows_in_bursts(writer, connection, size)
    limits += limit(by_sql, range(-size.limits // 2, 0))
    yield from figures(f"{how}, rows alone", alone, limits)
    yield from figures(f"{how}, bursts of {size.rows_of_burst}", in_bursts, limits)


def polling(
    access: Mapping[str, str], database: Database, size: Size, how: str
) -> Iterator[Figure]:
    """Measure a worker that polls: within a minute of other work, and when it is idle for long."""
    with database.connect() as connection:
        count_function_calls(connection)

    where = f"{how}, within {size.idle:g} s of other work"
    with worker(access, database) as process, database.connect() as connection:
        writer = Writer(database)
        pauses = [size.idle * (2 * row + 1) / (2 * size.polled) for row in range(size.polled)]
        with writer.watched():
            waits = rows_after(writer, connection, 3_000_000, pauses)
        yield Figure(what=f"{where}: p50", unit="ms", samples=waits, at_most=MOST_MS)
        cost = idle_cost(process, connection, size.idle)
        yield from cost_figures(where, cost)

    where = f"{how}, idle for long"
    with worker({**access, **SLEEPS_SOON}, database) as process, database.connect() as connection:
        until_true(process, connection, ASLEEP)
        cost = idle_cost(process, connection, size.idle)
        yield from cost_figures(where, cost, MOST_CPU, MOST_LOOKS)
        writer = Writer(database)
        with writer.watched():
            waits = rows_after(writer, connection, 4_000_000, [PAUSE_ASLEEP] * size.polled)
        yield Figure(what=f"{where}: p50, with the start of the model", unit="ms", samples=waits)


def cost_figures(
    where: str,
    cost: tuple[float, float],
    most_cpu: float | None = None,
    most_looks: float | None = None,
) -> Iterator[Figure]:
    cpu, looks = cost
    yield Figure(
        what=f"{where}: CPU of the worker", unit="% of a core", samples=[cpu], at_most=most_cpu
    )
    yield Figure(
        what=f"{where}: polls and claims", unit="a second", samples=[looks], at_most=most_looks
    )


def rows_after(
    writer: Writer, connection: Connection, first: int, pauses: Iterable[float]
) -> Samples:
    """Insert a row after each pause, which begins when the row before has its vector."""
    samples: Samples = []
    for row, seconds in enumerate(pauses, first):
        time.sleep(seconds)
        writer.insert(connection, row)
        samples += writer.latencies([row])
    return samples


def idle_cost(
    process: subprocess.Popen[bytes], connection: Connection, seconds: float
) -> tuple[float, float]:
    """Return the percentage of a core, and the polls and claims a second, of an idle worker."""
    time.sleep(COUNTED_WITHIN)
    cpu, calls = cpu_seconds(process.pid), value(connection, CALLS)
    time.sleep(seconds)
    cpu, calls = cpu_seconds(process.pid) - cpu, value(connection, CALLS) - calls
    return 100 * cpu / seconds, calls / seconds


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used so far."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def count_function_calls(connection: Connection) -> None:
    """Let the server count the calls of functions in all later sessions of this database."""
    name = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("alter database {} set track_functions = 'pl'").format(name))
    # those of a pooler began before
    connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )


CALLS = (
    "select coalesce(sum(calls), 0)::integer from pg_stat_user_functions"
    " where funcname in ('poll_embeddings', 'claim_embeddings')"
)


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
def worker(access: Mapping[str, str], database: Database) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `worker run` that has embedded a first row and is waiting."""
    command = [sys.executable, "-m", "worker", "run"]
    environment = {"PYTHONPATH": str(REPOSITORY), **SETTINGS, **access}
    with service(command, environment, database, "docs") as process:
        with database.connect() as connection:
            until_true(process, connection, WAITS)
        yield process


@contextmanager
def service(
    command: Sequence[str], environment: Mapping[str, str], database: Database, table: Table
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker that has embedded a first row."""
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
            insert = insert_into(table) + " on conflict do nothing"
            connection.execute(insert, [FIRST_ROW, "the first row"])
            until_true(process, connection, embedded)
            yield process
        finally:
            process.terminate()


def until_true(process: subprocess.Popen[bytes], connection: Connection, query: str) -> None:
    """Wait until a query returns true. Raises RuntimeError if it does not, or the worker ends."""
    until = time.monotonic() + LONGEST_WAIT
    while not value(connection, query):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the worker ended, or this did not become true: {query}")
        time.sleep(0.05)


WAITS = "select exists (select from embedding_workers where state in ('waiting', 'asleep'))"
ASLEEP = "select exists (select from embedding_workers where state = 'asleep')"
