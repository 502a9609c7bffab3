"""How much of the throughput that a provider and this machine allow the worker reaches.

Each figure is measured with `worker process` as a separate process, with default settings and 1536
dimensions. The provider and Postgres run on this machine as well, and share its cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from benchmarks.database import WIDE, Database, Server, texts
from benchmarks.provider import Behaviour, Provider, provider
from benchmarks.report import Figure
from benchmarks.usage import REPOSITORY
from benchmarks.work import Drain, drain_rate
from benchmarks.worker_processes import run_processes
from worker.engine.writing import BYTES_AT_ONCE

LATENCY = 0.2  # seconds
MODEL = "openai:text-embedding-3-small"
BATCH = 100  # texts in a request: the default size of a batch
MOST = 32  # requests at once, by default
FEW = 8  # few enough that the latency is the limit
ALLOWED = 600  # requests a minute
WRITTEN_AT_ONCE = BYTES_AT_ONCE // (4 * WIDE)  # vectors in a completion
LOW, HIGH = 600, 6000  # requests a minute, of a server whose limit changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    rows: int = 60_000
    rows_of_few: int = 30_000
    repetitions: int = 3
    first_minute: float = 60.0  # seconds
    after_it: float = 60.0  # seconds


FULL = Size()
QUICK = Size(rows=20_000, rows_of_few=8_000, repetitions=1, first_minute=20.0, after_it=20.0)


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run of `worker process` that embedded all rows."""

    rows_per_second: float
    cpu: float
    """CPU seconds of the worker process, from start to end."""


def throughput(server: Server, size: Size) -> Iterator[Figure]:
    """With default settings, and with few enough concurrent requests that latency is the limit.

    What the database takes is measured with the calls that the worker makes, a claim and a
    completion, with as many vectors in each, which need no provider. The bare UPDATE would be the
    limit of every queue; `scripts/bench queue` compares the calls with it.
    """
    defaults, without_latency, few, bare, starts, taken = [], [], [], [], [], []
    with (
        server.database(WIDE) as database,
        server.database(WIDE) as another,  # since a column holds vectors of one model
        run_processes(1) as process,
        provider(WIDE) as api,
    ):
        for _ in range(size.repetitions):
            taken.append(drain_rate(another, process, size.rows, Drain(another, WRITTEN_AT_ONCE)))
            api.behave(Behaviour())
            starts.append(embed(database, api, 1))
            without_latency.append(embed(database, api, size.rows))
            api.behave(Behaviour(latency=LATENCY))
            defaults.append(embed(database, api, size.rows))
            few.append(embed(database, api, size.rows_of_few, EMBEDDING_MAX_CONCURRENCY=str(FEW)))
            bare.append(ask(api, FEW, size.rows_of_few // BATCH))
    by_latency = MOST * BATCH / LATENCY
    yield Figure(
        what=f"default settings, {LATENCY * 1000:.0f} ms latency, limited by it"
        f" ({by_latency:,.0f} rows/s) or the database",
        unit="rows/s",
        samples=[run.rows_per_second for run in defaults],
        limits=[min(by_latency, rate) for rate in taken],
        at_least=0.9,
    )
    yield Figure(
        what="the same, limited by the same worker without latency",
        unit="rows/s",
        samples=[run.rows_per_second for run in defaults],
        limits=[min(by_latency, run.rows_per_second) for run in without_latency],
    )
    yield Figure(
        what="CPU time of the worker",
        unit="ms a row",
        samples=[1000 * run.cpu / size.rows for run in defaults],
        at_most=0.15,
    )
    yield Figure(
        what=f"part of it that starts the process, with {size.rows:,} rows",
        unit="ms a row",
        samples=[1000 * run.cpu / size.rows for run in starts],
    )
    yield Figure(
        what=f"{FEW} concurrent requests, limited by the same requests without a worker",
        unit="rows/s",
        samples=[run.rows_per_second for run in few],
        limits=bare,
        at_least=0.9,
    )


def pace(server: Server, size: Size) -> Iterator[Figure]:
    """Against a rate limit that the provider states or not, after the first minute."""
    with server.database(WIDE) as database, provider(WIDE) as api:
        for silent in (False, True):
            how = "limit not stated" if silent else "limit in headers"
            api.behave(Behaviour(LATENCY, ALLOWED, silent))
            with embedding(database, api, batch=1):
                time.sleep(size.first_minute)
                api.answers()
                time.sleep(size.after_it)
                answered, refused = api.answers()
            yield Figure(
                what=f"used of {ALLOWED} requests a minute, {how}",
                unit="requests/s",
                samples=[len(answered) / size.after_it],
                limits=[ALLOWED / 60],
                at_least=0.95,
            )
            yield Figure(
                what=f"share of refused requests, {how}",
                unit="%",
                samples=[100 * len(refused) / max(len(answered) + len(refused), 1)],
                at_most=1.0,
            )


def change(server: Server, size: Size) -> Iterator[Figure]:
    """A provider that lowers its limit to a tenth for ten seconds, and states the limit or not.

    Counts the requests in the five seconds that end ten seconds after each change.
    """
    with server.database(WIDE) as database, provider(WIDE) as api:
        for silent in (False, True):
            how = "limit not stated" if silent else "limit in headers"
            api.behave(Behaviour(LATENCY, HIGH, silent))
            with embedding(database, api, batch=1):
                time.sleep(15.0)
                api.answers()
                time.sleep(5.0)
                before, _ = api.answers()
                api.behave(Behaviour(LATENCY, LOW, silent))
                time.sleep(5.0)
                api.answers()
                time.sleep(5.0)
                low, refused = api.answers()
                api.behave(Behaviour(LATENCY, HIGH, silent))
                time.sleep(5.0)
                api.answers()
                time.sleep(5.0)
                after, _ = api.answers()
            yield Figure(
                what=f"refused after the limit fell to a tenth, {how}",
                unit="%",
                samples=[100 * len(refused) / max(len(low) + len(refused), 1)],
                at_most=5.0,
            )
            yield Figure(
                what=f"rate after the limit rose again, {how}",
                unit="requests/s",
                samples=[len(after) / 5],
                limits=[len(before) / 5],
                at_least=0.5,
            )


GROUPS = {"throughput": throughput, "pace": pace, "change": change}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def embed(database: Database, api: Provider, rows: int, **settings: str) -> Run:
    """Run over `rows` rows. Raises RuntimeError if the run fails or leaves a row out."""
    database.refill("docs", rows)
    with run_worker(database, api, "--json", **settings) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"worker process ended with {process.returncode}: {output}")
    database.check_all_embedded("docs")
    return Run(json.loads(output)["rows_per_second"], used.ru_utime + used.ru_stime)


def ask(api: Provider, at_once: int, requests: int) -> float:
    """Return the texts a second of these requests alone: nothing is done with the responses."""
    body = json.dumps({"model": MODEL, "input": texts()[:BATCH]})
    left = iter(range(requests))

    def ask_until_done() -> None:
        connection = HTTPConnection(urlsplit(api.base_url).netloc)
        with closing(connection):
            while next(left, None) is not None:  # one step, under the lock of the interpreter
                connection.request("POST", "/v1/embeddings", body)
                connection.getresponse().read()

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        for future in [pool.submit(ask_until_done) for _ in range(at_once)]:
            future.result()
    return requests * BATCH / (time.monotonic() - began)


@contextmanager
def embedding(database: Database, api: Provider, batch: int) -> Iterator[None]:
    """Keep a run busy while the context lasts: it has more rows than it can embed."""
    database.refill("docs", 30_000)
    with run_worker(database, api, "--batch-size", str(batch)) as process:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"worker process ended with {process.returncode}")
        process.terminate()
        process.communicate()


@contextmanager
def run_worker(
    database: Database, api: Provider, *arguments: str, **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """Run `worker process` while the context lasts."""
    environment: Mapping[str, str] = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "DATABASE_URL": database.url,
        "EMBEDDING_MODEL": MODEL,
        "OPENAI_BASE_URL": api.base_url,
        **settings,
    }
    with (
        tempfile.TemporaryDirectory() as folder,  # where no .env lies
        subprocess.Popen(
            [sys.executable, "-m", "worker", "process", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        yield process
