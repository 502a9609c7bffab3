"""The HTTP API for queries, by `worker serve` with the local model: how long a request takes beside
the model's own time, and how many a core answers.

The limit of a request is the model alone, in this process. Rates are those of the CPU time of the
server, so that clients on the same machine do not count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import httpx

from benchmarks.database import Database, Server
from benchmarks.latency import cpu_seconds
from benchmarks.queue import OF_LOCAL_MODEL
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


FULL, QUICK = Size(2000), Size(300)


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
GROUPS: dict[str, Callable[[Server, Size], Iterator[Figure]]] = {"queries": queries}


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
