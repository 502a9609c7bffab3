"""`worker serve` with the local model: how long a request of the HTTP API takes beside the model's
own time, and how many a core answers; how long the pages of the dashboard take, and what open ones
cost the database.

The limit of a request is the model alone, in this process. Rates are those of the CPU time of the
server, so that clients on the same machine do not count. The limit of a hundred open pages is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import httpx

from benchmarks.database import Database, Server
from benchmarks.latency import cpu_seconds
from benchmarks.queue import OF_LOCAL_MODEL, make_queue_of_every_status
from benchmarks.report import Figure
from benchmarks.usage import REPOSITORY
from worker.embedders.registry import open_embedder
from worker.operations.api_keys import create_key
from worker.settings import Settings

LOCAL = "local:wordllama-256"
MOST_MS = 10.0  # beyond the model's own time
AT_LEAST = 200.0  # requests a second of one core
WARM_UP = 50  # requests
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """The size of each measurement."""

    requests: int
    jobs: int
    """In the queue whose pages are opened, of every status."""


FULL, QUICK = Size(2000, 5_000_000), Size(300, 50_000)
TOKEN = "the-token-of-the-benchmark"
PAGES = (
    "/",
    "/jobs",
    "/jobs?status=pending",
    "/jobs?status=failed",
    "/jobs?status=completed",
    "/jobs?status=failed&class=class+3",
    "/jobs?record=77",
    "/jobs/77",
    "/failures",
    "/workers",
    "/audit",
)
MOST_MS_OF_A_PAGE = 50.0
OPENED = 20  # times each page
OPEN_PAGES, WATCHED_SECONDS = 100, 5.0
MOST_OF_ONE = 1.5  # times the transactions of one open page


def queries(server: Server, size: Size) -> Iterator[Figure]:
    """Queries that are embedded one after another, over one connection."""
    with server.database(OF_LOCAL_MODEL) as database, served(database) as (process, client):
        for name, path, body in CALLS:
            for number in range(WARM_UP):
                client.post(path, json=body(number)).raise_for_status()
            before = cpu_seconds(process.pid)
            bodies = map(body, range(size.requests))
            took = [timed(partial(ask, client, path, each)) for each in bodies]
            cpu = cpu_seconds(process.pid) - before
            own = median(model_alone(size.requests))
            beyond = [1000 * (each - own) for each in took]
            what = f"{name}: beyond the model"
            yield Figure(what=what, unit="ms", samples=beyond, at_most=MOST_MS)
            yield Figure(
                what=f"{name}: requests of a core",
                unit="requests/s",
                samples=[size.requests / cpu],
                at_least=AT_LEAST,
            )


def embeddings_body(number: int) -> Mapping[str, Any]:
    return {"model": "docs.embedding", "input": words(number), "encoding_format": "base64"}


def generate_body(number: int) -> Mapping[str, Any]:
    return {"text": words(number), "input_type": "query"}


CALLS: tuple[tuple[str, str, Callable[[int], Mapping[str, Any]]], ...] = (
    ("/v1/embeddings", "/v1/embeddings", embeddings_body),
    ("/api/embeddings/generate", "/api/embeddings/generate", generate_body),
)


def pages(server: Server, size: Size) -> Iterator[Figure]:
    """Pages of the dashboard, from the request to the whole answer; and the transactions of open
    pages, which are kept up to date."""
    with server.database(OF_LOCAL_MODEL) as database:
        with database.connect() as connection:
            make_queue_of_every_status(connection, size.jobs)
        with served(database) as (_, client):
            client.post("/login", data={"token": TOKEN}, headers={"authorization": ""})
            for address in PAGES:
                client.get(address).raise_for_status()
                took = [timed(partial(client.get, address)) for _ in range(OPENED)]
                what = f"pages: {address}, {size.jobs:,} jobs"
                samples = [1000 * each for each in took]
                yield Figure(what=what, unit="ms", samples=samples, at_most=MOST_MS_OF_A_PAGE)
            yield Figure(
                what=f"pages: {OPEN_PAGES} open ones against one",
                unit="transactions",
                limits=[transactions_of_open_pages(database, client, 1)],
                samples=[transactions_of_open_pages(database, client, OPEN_PAGES)],
                at_most=MOST_OF_ONE,
            )


def transactions_of_open_pages(database: Database, client: httpx.Client, count: int) -> float:
    """The transactions of WATCHED_SECONDS in which so many overviews are open."""
    with ExitStack() as opened:
        for _ in range(count):
            watching = httpx.Client(base_url=client.base_url, cookies=client.cookies)
            opened.enter_context(watching)
            opened.enter_context(watching.stream("GET", "/live", params={"page": "/"}))
        time.sleep(1)  # until all of them are being kept up to date
        before = transactions(database)
        time.sleep(WATCHED_SECONDS)
        return transactions(database) - before


def transactions(database: Database) -> float:
    """The transactions of a database so far."""
    counted = (
        "select xact_commit + xact_rollback from pg_stat_database"
        " where datname = current_database()"
    )
    with database.connect() as connection:
        time.sleep(1)  # the counts of others arrive after a while
        [(count,)] = connection.execute(counted).fetchall()
        return float(count)


GROUPS: dict[str, Callable[[Server, Size], Iterator[Figure]]] = {
    "queries": queries,
    "pages": pages,
}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


def words(number: int) -> str:
    """A query like those of people."""
    return f"how do I get back the money for order {number}"


def ask(client: httpx.Client, path: str, body: Mapping[str, Any]) -> None:
    client.post(path, json=body).raise_for_status()


def model_alone(count: int) -> list[float]:
    """How long the model takes, without a server."""
    with closing(open_embedder(LOCAL, OF_LOCAL_MODEL, Settings())) as embedder:
        texts = map(words, range(count))
        return [timed(partial(embedder.embed, [text], "query")) for text in texts]


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def served(database: Database) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run `worker serve` on a database. Yield its process, and a client with a key."""
    with database.queue() as queue:
        key = create_key(queue, "benchmark", ["embed", "search"])
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", "worker", "serve", "--address", "127.0.0.1:0"],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY),
                "DATABASE_URL": database.url,
                "WORKER_WEB_TOKEN": TOKEN,
            },
            stderr=log,
        ) as process,
    ):
        try:
            headers = {"authorization": f"Bearer {key}"}
            with httpx.Client(base_url=_address_in(log, process), headers=headers) as client:
                yield process, client
        finally:
            process.terminate()


def _address_in(log: Any, process: subprocess.Popen[bytes]) -> str:
    """Wait until the server says where it is."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        log.seek(0)
        for line in log.read().decode().splitlines():
            if line.startswith("serving ") and " at " in line:
                return str(line.rpartition(" at ")[2])
        time.sleep(0.05)
    raise RuntimeError("worker serve did not start")
