"""More workers, more jobs, and many workers with one rate limit.

The workers, their provider and Postgres share the cores of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import queue
from benchmarks.allowance import simulate
from benchmarks.database import NARROW, Database, Server
from benchmarks.provider import Behaviour, provider
from benchmarks.report import Figure
from benchmarks.work import BATCH, Drain, drain_rate
from benchmarks.worker_processes import Take, run_processes
from worker.embedders.registry import open_embedder
from worker.operations.processing import process
from worker.operations.session import open_queue
from worker.settings import Settings

MODEL = "openai:text-embedding-3-small"
LATENCY = 0.2  # seconds
AT_ONCE = "1"  # requests of each worker, so that its latency is its limit
ALLOWED = 6000  # requests a minute, of all workers together


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    workers: tuple[int, ...] = (1, 2, 4, 8)
    rows_of_each: int = 6_000
    repetitions: int = 3
    sharing: int = 100  # workers with one rate limit
    virtual_seconds: float = 900.0


FULL = Size()
QUICK = Size(workers=(1, 2), rows_of_each=1_000, repetitions=1, virtual_seconds=60.0)


@dataclass(frozen=True, slots=True)
class Embed:
    """A worker that embeds what is due."""

    database: Database
    base_url: str

    @contextmanager
    def ready(self, take: Take) -> Iterator[Callable[[], None]]:
        """Open the queue, and a model once, which imports its client. Yields a run."""
        given = {
            "DATABASE_URL": self.database.url,
            "EMBEDDING_MODEL": MODEL,
            "OPENAI_BASE_URL": self.base_url,
            "EMBEDDING_MAX_CONCURRENCY": AT_ONCE,
        }
        settings = Settings.from_mapping(given)
        open_embedder(MODEL, self.database.dimensions, settings).close()
        with open_queue(settings) as opened:

            def run() -> None:
                process(opened, settings)

            yield run


def workers(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second of several workers, compared with as many times one worker, or with what the
    database takes of as many processes that only claim and complete."""
    alone: list[float] = []
    with (
        server.database(NARROW) as database,
        server.database(NARROW) as another,  # since a column holds vectors of one model
        provider(NARROW) as api,
    ):
        api.behave(Behaviour(LATENCY))
        for number in size.workers:
            rows, rates, taken = number * size.rows_of_each, [], []
            with run_processes(number) as processes:
                for _ in range(size.repetitions):
                    taken.append(drain_rate(another, processes, rows, Drain(another, BATCH)))
                    database.refill("docs", rows)
                    rates.append(rows / processes.seconds(Embed(database, api.base_url)))
                    database.check_all_embedded("docs")
            alone = alone or rates
            linear = [number * rate for rate in alone]
            yield Figure(
                what=f"workers: what the database takes of {number} processes",
                unit="rows/s",
                samples=taken,
            )
            yield Figure(
                what=f"workers: {number}, limited by {number} times one worker or the database",
                unit="rows/s",
                samples=rates,
                limits=[min(each) for each in zip(linear, taken, strict=True)],
                at_least=0.8,
            )


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
        has_goal = not silent or rpm is not None
        what = f"allowance: {number} workers, {ALLOWED} requests a minute, {how}:"
        yield Figure(what=f"{what} used", unit="of it", samples=[shares.used], at_least=0.95)
        yield Figure(
            what=f"{what} refused",
            unit="%",
            samples=[100 * shares.refused],
            at_most=1.0 if has_goal else None,
        )
        yield Figure(
            what=f"{what} the worker with the fewest answers",
            unit="of the mean",
            samples=[shares.least],
            at_least=0.15 if has_goal else None,
        )


def long_queue(server: Server, size: Size) -> Iterator[Figure]:
    """Claims and views with ten million jobs: a group of `scripts/bench queue`."""
    yield from queue.scale(server, queue.QUICK if size is QUICK else queue.FULL)


GROUPS = {"workers": workers, "allowance": allowance, "long_queue": long_queue}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)
