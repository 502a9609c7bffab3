"""Batch backfills as tests see them: between this database and the stand-in for the Batch API."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from tests.batch_server import BatchServer
from tests.conftest import Database, rows
from tests.integration.runs import MODEL, Log
from worker.engine.pipeline import RunOptions
from worker.operations.batch_backfill import BatchRun, serve_until_done
from worker.operations.batch_planning import plan
from worker.operations.batch_serving import batch_server
from worker.operations.processing import process
from worker.operations.scopes import resolve_scope
from worker.queue import AdminQueue, Batch, BatchBackfill
from worker.settings import Settings


@dataclass
class Batches:
    """A batch backfill of `docs`, and what serves it."""

    queue: AdminQueue
    provider: BatchServer
    log: Log = field(default_factory=Log)
    stop: Event = field(default_factory=Event)
    cache_mb: int = 0
    most_tokens: int | None = None
    key: str | None = None
    """Another than that of the provider."""

    @property
    def settings(self) -> Settings:
        return Settings(
            embedding_model=MODEL,
            openai_api_key=self.key or self.provider.api_key,
            openai_base_url=self.provider.base_url,
            embedding_timeout_seconds=5.0,
            embedding_batch_poll=timedelta(milliseconds=1),
            embedding_cache_mb=self.cache_mb,
            embedding_batch_tokens=self.most_tokens,
        )

    def plan(self, max_cost: float | None = None) -> int:
        return plan(self.queue, self.settings, max_cost=max_cost)

    def step(self) -> None:
        """Take every step that is due now, as another worker each time."""
        scope = resolve_scope(self.queue, self.settings, None, None)
        with batch_server(self.queue, self.settings, scope, self.log, self.stop) as server:
            server.step()

    def until_done(self) -> BatchRun:
        """Serve until nothing is left that fits."""
        scope = resolve_scope(self.queue, self.settings, None, None)
        return serve_until_done(self.queue, self.settings, scope, self.log, self.stop)

    def run(self) -> BatchRun:
        """Plan, and serve until nothing is left."""
        self.plan()
        return self.until_done()

    def embed_the_rest(self) -> None:
        """Embed what is due the ordinary way."""
        process(self.queue, self.settings, options=RunOptions(batch_size=10, grace=20.0))

    def all(self) -> list[Batch]:
        return sorted(self.queue.batches(), key=lambda batch: batch.id)

    @property
    def states(self) -> list[str]:
        return [batch.state for batch in self.all()]

    @property
    def backfill(self) -> BatchBackfill:
        """Of the only column."""
        [backfill] = self.queue.batch_backfills()
        return backfill


def fill(docs: Database, count: int) -> None:
    """Rows 1 to `count` with different texts, of which nothing is in the queue yet."""
    docs.execute(
        "insert into docs select id, 'text number ' || id from generate_series(1, %s) id",
        [count],
    )
    docs.execute("delete from embedding_queue")


def statuses(db: Database) -> dict[str, int]:
    """How many jobs are in each status; those that wait for a batch are `waiting`."""
    found = rows(
        db,
        "select case when available_at = 'infinity' and status = 'pending' then 'waiting'"
        " else status end as state, count(*) from embedding_queue group by 1",
    )
    return {state: count for state, count in found}


def let_leases_end(db: Database) -> None:
    """What time does for a batch whose worker has died."""
    db.execute("update embedding_batches set lease_expires_at = now() where ended_at is null")


def end_pauses(db: Database) -> None:
    """What time does after a failure."""
    db.execute("update embedding_batch_backfills set retry_at = null")
