"""The speed of the queue, compared with this machine without the queue, in the same run.

Each group yields its figures. Limit and measurement take turns, so that other load on the machine
affects both equally.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import LiteralString

from benchmarks import edits
from benchmarks import verification as verifying
from benchmarks.database import (
    FILLED_AT_ONCE,
    NARROW,
    TEXTS,
    WIDE,
    Connection,
    Database,
    Server,
    value,
)
from benchmarks.monitoring import beside_monitor
from benchmarks.report import Figure
from benchmarks.statements import insert_texts, statements, write_all_vectors
from benchmarks.usage import usage
from benchmarks.verification import verification
from benchmarks.work import (
    BATCH,
    WARM_UP,
    Drain,
    claim,
    complete,
    drain,
    drain_rate,
    write_back_rate,
)
from benchmarks.worker_processes import run_processes
from worker.queue import Job
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.postgres import PostgresQueue

TINY = 3  # dimensions, where the vectors do not matter
OF_LOCAL_MODEL = 256  # dimensions
PREPARED_FROM = 5  # executions: psycopg's own default


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement, in rows unless a comment says otherwise."""

    rows: int = TEXTS
    rows_in_tens: int = 6_000  # with batches of 10 …
    rows_in_ones: int = 1_000  # … and of 1
    single_rows: int = 2_000  # one transaction for each
    short_queue: int = 10_000
    long_queue: int = 1_000_000  # pending, and the same number completed
    huge_queue: int = 10_000_000  # jobs, of every status
    small_run: int = 10_000
    large_run: int = 100_000
    claims: int = 30
    batches: int = 10
    repetitions: int = 3
    close_repetitions: int = 5  # if limit and measurement are close

    def rows_for(self, batch: int) -> int:
        """Return how many rows are enough to measure batches of this size."""
        return {1: self.rows_in_ones, 10: self.rows_in_tens}.get(batch, self.rows)


FULL = Size()
QUICK = Size(
    rows=2_000,
    rows_in_tens=300,
    rows_in_ones=60,
    single_rows=100,
    short_queue=1_000,
    long_queue=10_000,
    huge_queue=50_000,
    small_run=500,
    large_run=2_000,
    claims=5,
    batches=2,
    repetitions=1,
    close_repetitions=1,
)

Samples = list[float]


def alternate(
    times: int, limit: Callable[[], float], measured: Callable[[], float]
) -> tuple[Samples, Samples]:
    """Take `times` samples of both, in turn."""
    pairs = [(limit(), measured()) for _ in range(times)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


# -- cycle: claim, then complete, with an embedder that takes no time

CYCLES = ((1, 1), (1, 10), (1, 100), (1, 500), (2, 100), (4, 100), (8, 100))
"""Processes and batch sizes."""

CYCLE_AT_LEAST = {(NARROW, 1, 500): 0.40, (NARROW, 4, 100): 0.60}


def cycle(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second from claim to completion, compared with only writing the vectors.

    The limit uses as many processes as the measurement. With several processes, the measurement is
    also compared with the limit of one process.
    """
    for dimensions in (NARROW, WIDE):
        limits_of_one: Samples = []
        with server.database(dimensions) as database:
            for workers, batch in CYCLES:
                limits, rates = cycle_rates(database, size, workers, batch)
                if (workers, batch) == (1, BATCH):
                    limits_of_one = limits
                what = f"cycle: {dimensions} dims, batch {batch}, {workers} at once"
                yield Figure(
                    what=what,
                    unit="rows/s",
                    limits=limits,
                    samples=rates,
                    at_least=CYCLE_AT_LEAST.get((dimensions, workers, batch)),
                )
                if workers > 1:
                    what += ", limit of one"
                    yield Figure(what=what, unit="rows/s", limits=limits_of_one, samples=rates)


def cycle_rates(
    database: Database, size: Size, workers: int, batch: int
) -> tuple[Samples, Samples]:
    """Return samples of the limit and of the measurement."""
    rows = size.rows_for(batch)
    with run_processes(workers) as processes:
        return alternate(
            size.repetitions,
            partial(write_back_rate, database, processes, rows, batch),
            partial(drain_rate, database, processes, rows, Drain(database, batch)),
        )


# -- triggers: the cost of an application's statements on a watched table


def triggers(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of a statement on a watched table, compared with an unwatched table."""
    with server.database(NARROW) as database, database.connect() as connection:
        for statement in statements(size.rows, size.single_rows):
            plain, watched = alternate(
                size.close_repetitions,
                partial(statement.milliseconds, database, connection, "plain"),
                partial(statement.milliseconds, database, connection, "docs"),
            )
            yield Figure(
                what=f"triggers: {statement.what}",
                unit="ms",
                limits=plain,
                samples=watched,
                at_most=statement.at_most,
            )


# -- writers_at_once: the rate of edits by many writers

WRITERS = 8


def writers_at_once(server: Server, size: Size) -> Iterator[Figure]:
    """Edits a second of single rows with one to three watched columns, compared with none."""
    with server.database(TINY) as database, run_processes(WRITERS) as processes:
        edits.create_tables(database, size.single_rows)
        for watched, column in enumerate(edits.COLUMNS, start=1):
            edits.watch(database, column)
            rate = partial(edits.edits_per_second, database, processes)
            limits, rates = alternate(
                size.close_repetitions,
                partial(rate, "plain_notes", size.single_rows),
                partial(rate, "notes", size.single_rows),
            )
            yield Figure(
                what=f"writers_at_once: {WRITERS} writers, watched columns: {watched}",
                unit="edits/s",
                limits=limits,
                samples=rates,
            )


def monitor(server: Server, size: Size) -> Iterator[Figure]:
    """Edits a second by many writers while a large table is checked, compared with no check."""
    with server.database(TINY) as database, run_processes(WRITERS) as processes:
        database.refill("docs", size.large_run)
        with database.connect() as connection:
            verifying.complete_all(connection, size.large_run, TINY)
        edits.create_tables(database, size.single_rows)
        edits.watch(database, edits.COLUMNS[0])
        rate = partial(edits.edits_per_second, database, processes, "notes", size.single_rows)
        limits, rates = alternate(
            size.close_repetitions, rate, partial(beside_monitor, database, rate)
        )
        yield Figure(
            what=f"monitor: {WRITERS} writers beside it",
            unit="edits/s",
            limits=limits,
            samples=rates,
            at_least=0.98,
        )


# -- claims: the duration of a claim if the queue is long or cannot be vacuumed


def claims(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of a claim."""
    yield long_queue(server, size)
    yield held_snapshot(server, size)


def long_queue(server: Server, size: Size) -> Figure:
    """Claims from many pending and many completed jobs, compared with a few pending jobs."""
    with server.database(TINY) as short, server.database(TINY) as long:
        short.refill("docs", size.short_queue)
        make_long_queue(long, size.long_queue, size.long_queue)
        with short.queue() as queue_of_short, long.queue() as queue_of_long:
            few, many = claims_of_both(queue_of_short, queue_of_long, size)
    what = f"claims: {size.long_queue:,} pending + completed against {size.short_queue:,}"
    return Figure(what=what, unit="ms", limits=few, samples=many, at_most=1.5)


def claims_of_both(few: PostgresQueue, many: PostgresQueue, size: Size) -> tuple[Samples, Samples]:
    """Time claims from a short queue and from a long one, in turn."""
    for queue in (few, many):
        claim_milliseconds(queue, WARM_UP)
    return alternate(
        size.claims,
        lambda: claim_milliseconds(few, 1)[0],
        lambda: claim_milliseconds(many, 1)[0],
    )


def make_long_queue(database: Database, completed: int, pending: int) -> None:
    """Fill `docs` as in production: its triggers enqueue jobs, and workers complete them."""
    database.refill("docs", completed)
    with run_processes(os.cpu_count() or 1) as processes:
        processes.seconds(Drain(database, batch=1000))
    database.check_all_embedded("docs")
    database.fill("docs", range(completed, completed + pending))


def held_snapshot(server: Server, size: Size) -> Figure:
    """Claims while an old snapshot keeps dead versions of processed jobs, compared with before."""
    with server.database(TINY) as database, database.queue() as queue:
        database.refill("docs", size.rows + size.short_queue)
        claim_milliseconds(queue, WARM_UP)
        before = claim_milliseconds(queue, size.claims)
        with snapshot(database):
            drain(queue, TINY, BATCH, most=size.rows)
            after = claim_milliseconds(queue, size.claims)
    what = f"claims: {size.rows:,} jobs later, under a held snapshot"
    return Figure(what=what, unit="ms", limits=before, samples=after, at_most=2.0)


@contextmanager
def snapshot(database: Database) -> Iterator[None]:
    """Hold a snapshot of the database while the context lasts."""
    with database.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select from docs limit 1")
        yield


def claim_milliseconds(queue: PostgresQueue, times: int) -> Samples:
    """Time claims. Each claim is released, so that the length of the queue does not change."""
    samples = []
    for _ in range(times):
        begun = time.perf_counter()
        jobs = claim(queue, BATCH)
        samples.append((time.perf_counter() - begun) * 1000)
        if len(jobs) != BATCH:
            raise RuntimeError(f"{len(jobs)} jobs were claimed, not {BATCH}")
        queue.release(jobs)
    return samples


# -- scale: the views, pages of jobs, claims, and batches of a command, with a queue of every status
#    of which a tenth failed

COUNT: LiteralString = "select status, count(*) from embedding_queue group by status"

LOOKS: Mapping[LiteralString, float] = {
    "select * from embedding_status": 50,
    "select * from embedding_progress": 50,
    "select * from embedding_failures": 50,
    "select * from list_embeddings()": 50,
    "select embedding_overview()": 50,
    "select * from embedding_stats()": 100,
}
"""Queries, and how many milliseconds they may take."""

PAGES: Sequence[LiteralString] = (
    "select page_embeddings()",
    "select page_embeddings('pending')",
    "select page_embeddings('failed')",
    "select page_embeddings('failed', only_error_class => 'class 3')",
    "select page_embeddings('completed')",
    "select page_embeddings('skipped')",
    "select page_embeddings(only_record => '77')",
    "select embedding_job(77)",
)
"""What the dashboard shows of the jobs: it takes as long however many there are."""

LONGEST_BATCH = 5_000.0  # milliseconds


def scale(server: Server, size: Size) -> Iterator[Figure]:
    """Milliseconds of each view, of a count of the same jobs, of pages, a claim, and batches."""
    with server.database(TINY) as few, server.database(TINY) as many:
        for database, jobs in ((few, size.short_queue), (many, size.huge_queue)):
            with database.connect() as connection:
                make_queue_of_every_status(connection, jobs)
        yield from views(many, size)
        yield from pages(few, many, size)
        with few.queue() as queue_of_few, many.queue() as queue_of_many:
            limits, samples = claims_of_both(queue_of_few, queue_of_many, size)
            what = f"scale: claim from {size.huge_queue:,} jobs against {size.short_queue:,}"
            yield Figure(what=what, unit="ms", limits=limits, samples=samples, at_most=1.5)
            yield from batches(queue_of_many, size)


def views(database: Database, size: Size) -> Iterator[Figure]:
    """Milliseconds of each view, and of a count of the same jobs."""
    with database.connect() as connection:
        for query, goal in {COUNT: None, **LOOKS}.items():
            what = f"count(*) of {size.huge_queue:,} jobs" if query is COUNT else query.split()[-1]
            times = size.repetitions if query is COUNT else size.claims
            samples = [query_milliseconds(connection, query) for _ in range(times)]
            yield Figure(what=f"scale: {what}", unit="ms", samples=samples, at_most=goal)


def pages(few: Database, many: Database, size: Size) -> Iterator[Figure]:
    """Milliseconds of a page of jobs, compared with the same of a few jobs."""
    with few.connect() as connection_to_few, many.connect() as connection_to_many:
        for query in PAGES:
            limits, samples = alternate(
                size.claims,
                partial(query_milliseconds, connection_to_few, query),
                partial(query_milliseconds, connection_to_many, query),
            )
            what = f"scale: {query.removeprefix('select ')}"
            yield Figure(what=what, unit="ms", limits=limits, samples=samples, at_most=2.0)


def batches(queue: PostgresQueue, size: Size) -> Iterator[Figure]:
    """Milliseconds of a batch of each command that goes through the queue."""
    after = 0

    def requeue_any() -> None:
        nonlocal after
        after = queue.requeue(status=None, after=after).looked_to or 0

    def reprocess() -> None:
        nonlocal after
        after = queue.reprocess("*7*", None, None, after, dry_run=False).looked_to or 0

    commands: Mapping[str, Callable[[], object]] = {
        "requeue --failed": lambda: queue.requeue(status="failed"),
        "requeue --all": requeue_any,
        "reprocess": reprocess,
    }
    for command, batch in commands.items():
        yield Figure(
            what=f"scale: {command}, a batch of {JOBS_IN_ONE_CALL:,} jobs",
            unit="ms",
            samples=[milliseconds(batch) for _ in range(size.batches)],
            at_most=LONGEST_BATCH,
        )


def make_queue_of_every_status(connection: Connection, jobs: int) -> None:
    """Insert jobs of `docs`, of 100 owners, without triggers.

    Of ten jobs, four are pending (one of them not due yet), five completed and one failed; a few
    are skipped.
    """
    connection.execute("set session_replication_role = replica")
    for first in range(0, jobs, 10 * FILLED_AT_ONCE):
        connection.execute(
            "insert into embedding_queue (target_id, table_name, record_id, embedding_column,"
            "  user_id, status, error_class, error_message, available_at)"
            " select target.id, 'docs', n, 'embedding', md5((n %% 100)::text)::uuid,"
            "  case when n %% 1000 = 9 then 'skipped' when n %% 10 < 4 then 'pending'"
            "       when n %% 10 = 4 then 'failed' else 'completed' end,"
            "  case when n %% 10 = 4 then 'class ' || n %% 7 end,"
            "  case when n %% 10 = 4 then 'why ' || n end,"
            "  now() + case when n %% 10 = 3 then interval '1 day' else -n * interval '1 ms' end"
            " from embedding_targets as target, generate_series(%s::bigint, %s) as n",
            [first, min(first + 10 * FILLED_AT_ONCE, jobs) - 1],
        )
    connection.execute(
        "insert into docs (id, body)"
        " select n, 'text ' || n from generate_series(0::bigint, %s) as n",
        [jobs - 1],
    )
    connection.execute("set session_replication_role = origin")
    connection.execute("select recount_embeddings()")
    connection.execute("vacuum analyze embedding_queue, docs")


def query_milliseconds(connection: Connection, query: LiteralString) -> float:
    return milliseconds(lambda: connection.execute(query).fetchall())


def milliseconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


# -- wal: the size of the WAL, which other load on the machine does not affect

Shares = dict[str, float]
"""Bytes a row for each step, or percent for each table."""


def wal(server: Server, size: Size) -> Iterator[Figure]:
    """Bytes of WAL a row, compared with the same rows without a queue, and the HOT updates."""
    with server.database(NARROW) as database:
        runs = [wal_of_both(database, size.rows) for _ in range(size.repetitions)]
    for step in runs[0].docs:
        yield Figure(
            what=f"wal: {step}",
            unit="B/row",
            limits=[run.plain[step] for run in runs if step in run.plain],
            samples=[run.docs[step] for run in runs],
        )
    for table in runs[0].hot:
        what = f"wal: HOT among the updates of {table}"
        yield Figure(what=what, unit="%", samples=[run.hot[table] for run in runs])


@dataclass(frozen=True, slots=True)
class WalRun:
    """WAL of each step on both tables, and the share of HOT updates on the watched table."""

    plain: Shares
    docs: Shares
    hot: Shares


def wal_of_both(database: Database, rows: int) -> WalRun:
    """Insert all rows, claim all jobs and complete all jobs, after one checkpoint."""
    jobs: list[Job] = []
    database.empty("plain")
    database.empty("docs")
    with database.connect() as connection, database.queue() as queue:
        connection.execute("select pg_stat_reset()")
        plain = wal_a_row(
            connection,
            rows,
            enqueue=lambda: insert_texts(connection, "plain", rows),
            complete=lambda: write_all_vectors(connection, "plain", rows),
        )
        docs = wal_a_row(
            connection,
            rows,
            enqueue=lambda: insert_texts(connection, "docs", rows),
            claim=lambda: jobs.extend(claim_all(queue)),
            complete=lambda: complete_all(queue, jobs),
        )
        queue.database.current.execute("select pg_stat_force_next_flush()")
        hot = {table: hot_share(connection, table) for table in ("docs", "embedding_queue")}
    database.check_all_embedded("docs")
    return WalRun(plain, docs, hot)


def wal_a_row(connection: Connection, rows: int, **steps: Callable[[], object]) -> Shares:
    """Run the steps. Returns the WAL of each step and of all together."""
    written: Shares = {}
    connection.execute("checkpoint")
    for name, step in steps.items():
        before = value(connection, "select pg_current_wal_insert_lsn()")
        step()
        sent = value(connection, "select pg_current_wal_insert_lsn() - %s::pg_lsn", before)
        written[name] = float(sent) / rows
    return written | {"whole cycle": sum(written.values())}


def claim_all(queue: PostgresQueue) -> Iterator[Job]:
    while jobs := claim(queue, BATCH):
        yield from jobs


def complete_all(queue: PostgresQueue, jobs: list[Job]) -> None:
    for first in range(0, len(jobs), BATCH):
        complete(queue, jobs[first : first + BATCH], NARROW)


def hot_share(connection: Connection, table: str) -> float:
    """Return the share of HOT updates, in percent."""
    share = value(
        connection,
        "select 100.0 * n_tup_hot_upd / n_tup_upd from pg_stat_user_tables where relname = %s",
        table,
    )
    return float(share)


# -- memory: of a worker process


def memory(server: Server, size: Size) -> Iterator[Figure]:
    """Peak memory of `worker process` with the local model, compared with a tenth of the rows."""
    with server.database(OF_LOCAL_MODEL) as database:
        few, many = alternate(
            1,
            partial(peak_megabytes, database, size.small_run),
            partial(peak_megabytes, database, size.large_run),
        )
    what = f"memory: worker process, {size.large_run:,} rows"
    yield Figure(
        what=f"{what} against {size.small_run:,}",
        unit="MB",
        limits=few,
        samples=many,
        at_most=1.2,
    )
    yield Figure(what=what, unit="MB", samples=many, at_most=200)


def peak_megabytes(database: Database, rows: int) -> float:
    """Return the peak of a run that embeds `rows` rows. Raises RuntimeError if the run fails."""
    database.refill("docs", rows)
    used = usage([sys.executable, "-m", "worker", "process"], {"DATABASE_URL": database.url})
    database.check_all_embedded("docs")
    return used.peak


# -- prepared: the cost of not using prepared statements


def prepared(server: Server, size: Size) -> Iterator[Figure]:
    """The cycle without prepared statements (the default), compared with prepared statements."""
    with server.database(NARROW) as database, run_processes(1) as process:
        for batch in (10, BATCH):
            rows = size.rows_for(batch)
            with_them = Drain(database, batch, prepare_threshold=PREPARED_FROM)
            limits, rates = alternate(
                size.close_repetitions,
                partial(drain_rate, database, process, rows, with_them),
                partial(drain_rate, database, process, rows, Drain(database, batch)),
            )
            yield Figure(
                what=f"prepared: batch {batch}, without prepared statements",
                unit="rows/s",
                limits=limits,
                samples=rates,
            )


def verify(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second of a verification, against one statement that checks all rows."""
    yield from verification(server, size.large_run, size.close_repetitions)


Group = Callable[[Server, Size], Iterator[Figure]]

GROUPS: Mapping[str, Group] = {
    "cycle": cycle,
    "triggers": triggers,
    "writers_at_once": writers_at_once,
    "monitor": monitor,
    "claims": claims,
    "scale": scale,
    "wal": wal,
    "memory": memory,
    "prepared": prepared,
    "verify": verify,
}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)
