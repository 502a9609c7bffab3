"""What the worker gets out of a provider, against what the provider and this machine allow.

Each figure is of `worker process` as a process of its own, with the settings it comes with, on a
database of 1536 dimensions. The provider is a process of this machine as well, and so is Postgres:
all of them share its cores.
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
from benchmarks.queue import REPOSITORY
from benchmarks.report import Figure

LATENCY = 0.2  # seconds
MODEL = "openai:text-embedding-3-small"
BATCH = 100  # texts in a request: the default size of a batch
MOST = 32  # requests at once, by default
FEW = 8  # so few that it is the latency that limits
ALLOWED = 600  # requests a minute
LOW, HIGH = 600, 6000  # requests a minute, of a server that changes its mind


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    rows: int = 60_000
    rows_of_few: int = 30_000
    repetitions: int = 3
    first_minute: float = 60.0  # seconds
    after_it: float = 60.0  # seconds


FULL = Size()
QUICK = Size(rows=20_000, rows_of_few=8_000, repetitions=1, first_minute=20.0, after_it=20.0)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of `worker process` that embedded everything."""

    rows_per_second: float
    cpu: float
    """Seconds of processor, of the worker alone, from its start to its end."""


def throughput(server: Server, size: Size) -> Iterator[Figure]:
    """With default settings, and with so few requests at once that the latency is what counts."""
    with server.database(WIDE) as database, provider(WIDE) as api:
        defaults, at_once, few, bare = [], [], [], []
        for _ in range(size.repetitions):
            api.behave(Behaviour())
            at_once.append(embed(database, api, size.rows))
            api.behave(Behaviour(latency=LATENCY))
            defaults.append(embed(database, api, size.rows))
            few.append(embed(database, api, size.rows_of_few, EMBEDDING_MAX_CONCURRENCY=str(FEW)))
            bare.append(ask(api, FEW, size.rows_of_few // BATCH))
    by_latency = MOST * BATCH / LATENCY
    yield Figure(
        what=f"default settings, {LATENCY * 1000:.0f} ms latency",
        unit="rows/s",
        samples=[run.rows_per_second for run in defaults],
        at_least=5000,
    )
    yield Figure(
        what=f"the same, of what latency ({by_latency:,.0f} rows/s) and processor allow",
        unit="rows/s",
        samples=[run.rows_per_second for run in defaults],
        limits=[min(by_latency, run.rows_per_second) for run in at_once],
    )
    yield Figure(
        what="processor of the worker",
        unit="ms a row",
        samples=[1000 * run.cpu / size.rows for run in defaults],
        at_most=0.15,
    )
    yield Figure(
        what=f"{FEW} requests at once, of what the same requests alone reach",
        unit="rows/s",
        samples=[run.rows_per_second for run in few],
        limits=bare,
        at_least=0.9,
    )


def pace(server: Server, size: Size) -> Iterator[Figure]:
    """Against an allowance, of which the provider says so or not, after the first minute."""
    with server.database(WIDE) as database, provider(WIDE) as api:
        for silent in (False, True):
            how = "unsaid" if silent else "said in headers"
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
                what=f"refused of them, {how}",
                unit="%",
                samples=[100 * len(refused) / max(len(answered) + len(refused), 1)],
                at_most=1.0,
            )


def change(server: Server, size: Size) -> Iterator[Figure]:
    """A provider that allows a tenth of it half-way, for ten seconds, and says so or not: what gets
    through in the five seconds that end ten seconds after each change."""
    with server.database(WIDE) as database, provider(WIDE) as api:
        for silent in (False, True):
            how = "unsaid" if silent else "said in headers"
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
                what=f"refused after going down to a tenth, {how}",
                unit="%",
                samples=[100 * len(refused) / max(len(low) + len(refused), 1)],
                at_most=5.0,
            )
            yield Figure(
                what=f"back up again, {how}",
                unit="requests/s",
                samples=[len(after) / 5],
                limits=[len(before) / 5],
                at_least=0.5,
            )


GROUPS = {"throughput": throughput, "pace": pace, "change": change}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """The figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def embed(database: Database, api: Provider, rows: int, **settings: str) -> Run:
    """A run over so many rows. Raises RuntimeError if it fails, or leaves one out."""
    database.refill("docs", rows)
    with _worker(database, api, "--json", **settings) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"worker process ended with {process.returncode}: {output}")
    database.check_all_embedded("docs")
    return Run(json.loads(output)["rows_per_second"], used.ru_utime + used.ru_stime)


def ask(api: Provider, at_once: int, requests: int) -> float:
    """Texts a second of so many requests, with nothing done before, between or with the answers."""
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
    """A run that goes on while the context lasts, with more to do than it can."""
    database.refill("docs", 30_000)
    with _worker(database, api, "--batch-size", str(batch)) as process:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"worker process ended with {process.returncode}")
        process.terminate()
        process.communicate()


@contextmanager
def _worker(
    database: Database, api: Provider, *arguments: str, **settings: str
) -> Iterator[subprocess.Popen[str]]:
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
