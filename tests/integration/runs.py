"""Whole runs as tests see them: the engine between this database and the stand-in for a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.acceptance.conftest import Held
from tests.conftest import Database, rows
from tests.integration.tables import completions_of
from tests.ollama_server import OllamaServer
from tests.openai_server import OpenAIServer, vector_for
from worker.chunking.documents import split_document
from worker.embedders.base import Embedder
from worker.embedders.registry import open_chat_model, open_embedder
from worker.engine import retry
from worker.engine.embedding import Outcome
from worker.engine.heartbeat import Leases
from worker.engine.models import OpenChatModel, OpenEmbedder
from worker.engine.pipeline import Pipeline, RunOptions
from worker.engine.progress import Progress, RunStats
from worker.engine.providers import Limiters
from worker.engine.splitting import Split
from worker.engine.throttling import FULL, Throttle
from worker.engine.writing import Writer
from worker.queue import Job, Queue, Scope
from worker.settings import Settings

MODEL = "openai:text-embedding-3-small"
WIDTH = 8
SCOPE = Scope("test", timedelta(minutes=5), MODEL)
LONG = 20.0  # seconds; who waits for an event that long waits for one that does not come


@dataclass
class Remarks:
    """Somebody who watches a run, and writes down what it says."""

    said: list[str] = field(default_factory=list)

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        self.said.append(name)


@dataclass
class Log(Remarks):
    """Somebody who also writes down what each event says."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]


@dataclass
class Runs:
    """Makes runs over a queue, with a stand-in as the model."""

    queue: Queue
    server: OpenAIServer
    timeout: float = 5.0
    key: str | None = None
    """Another than that of the server."""
    open_embedder: OpenEmbedder | None = None
    """Opens models instead of `open`."""
    split: Split = split_document
    open_chat_model: OpenChatModel | None = None
    """Opens chat models instead of the stand-ins."""
    ollama: OllamaServer | None = None
    """Has the chat models `ollama:...`."""

    def new(
        self,
        batch_size: int | None = 10,
        scope: Scope = SCOPE,
        grace: float = 20.0,
        *,
        progress: Progress | None = None,
        stop: Event | None = None,
        throttle: Throttle = lambda: FULL,
        limiters: Limiters | None = None,
        **options: Any,
    ) -> Pipeline:
        return Pipeline(
            queue=self.queue,
            open_embedder=self.open_embedder or self.open,
            split=self.split,
            scope=scope,
            options=RunOptions(batch_size=batch_size, grace=grace, **options),
            progress=progress or Remarks(),
            stop=stop or Event(),
            throttle=throttle,
            limiters=limiters,
            open_chat_model=self.open_chat_model
            or partial(open_chat_model, settings=self.settings),
        )

    def drain(self, batch_size: int = 10, **options: Any) -> RunStats:
        return self.new(batch_size, **options).drain()

    def open(self, model: str, width: int | None, prompt: str | None = None) -> Embedder:
        return open_embedder(model, width, self.settings, prompt)

    @property
    def settings(self) -> Settings:
        settings = Settings(
            openai_api_key=self.key or self.server.api_key,
            openai_base_url=self.server.base_url,
            embedding_timeout_seconds=self.timeout,
        )
        return replace(settings, ollama_host=self.ollama.root) if self.ollama else settings


@contextmanager
def under_way(run: Pipeline, held: Held) -> Iterator[Future[RunStats]]:
    """What is done inside happens while the model has been asked and has not answered."""
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run.drain)
        try:
            assert held.arrived.wait(LONG)
            yield ending
        finally:
            held.let_go.set()


def hand_in(queue: Queue, jobs: Sequence[Job]) -> RunStats:
    """What a worker does with the vectors of its jobs: write them, give back what is refused."""
    leases = Leases()
    leases.hold(jobs)
    writer = Writer(queue, leases, RunStats(), Event())
    writer.write(jobs, Outcome(jobs[0].model, completions_of(jobs)))
    return writer.stats


def at_once(monkeypatch: pytest.MonkeyPatch, tries_for: float | None = None) -> None:
    """Let nobody wait between two tries; with `tries_for` (seconds) a request ends after that."""
    monkeypatch.setattr(retry, "_random_exponential", lambda state: 0.0)
    monkeypatch.setattr("worker.engine.writing.backoff", lambda *_: timedelta(0))
    monkeypatch.setattr("worker.engine.limiter.FIRST_PAUSE", 0.0)
    if tries_for is not None:
        monkeypatch.setattr(retry, "RETRY_SECONDS", tries_for)
        monkeypatch.setattr(retry, "RATE_LIMIT_SECONDS", tries_for)


def unlike_their_text(db: Database, read: Callable[[Any], str] = str) -> list[Any]:
    """The keys of the rows of `docs` whose vector is not that of exactly their text."""
    return [
        key
        for key, body, vector in rows(
            db, "select id, body, embedding::real[] from docs where embedding is not null"
        )
        if not np.allclose(vector, vector_for(read(body), len(vector)), atol=1e-6)
    ]
