"""A batch that this worker holds: its lease is extended while the worker is busy with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from worker.batches.options import BatchOptions
from worker.embedders.base import with_prompt
from worker.embedders.batch_api import BatchApi
from worker.engine.progress import Progress, RunStats
from worker.engine.writing import Writer
from worker.queue import AdminQueue, Batch

LEASE = timedelta(minutes=5)
EXTEND_EVERY = 60.0  # seconds
RELEASED_AT_ONCE = 2000  # jobs


class LeaseLost(Exception):
    """Another worker holds the batch by now."""


class Interrupted(Exception):
    """The worker stops."""


@dataclass(slots=True)
class HeldBatch:
    """A batch, the API of its provider, and what writes the results of its jobs."""

    queue: AdminQueue
    api: BatchApi
    batch: Batch
    worker: str
    writer: Writer
    options: BatchOptions
    observer: Progress
    stop: Event
    input_file: str | None = field(init=False)
    """The name of its file at the provider."""
    _extended_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.input_file = self.batch.input_file

    @property
    def id(self) -> int:
        return self.batch.id

    @property
    def token(self) -> str:
        """What identifies it at the provider, before that has given it a name."""
        return str(self.batch.token)

    @property
    def full_model(self) -> str:
        """The name of its model, as stored beside each vector."""
        return with_prompt(self.api.model, self.api.prompts.document)

    @property
    def is_cancelled(self) -> bool:
        """Whether a person wants it cancelled."""
        return self.batch.cancel_requested_at is not None

    @property
    def stats(self) -> RunStats:
        return self.writer.stats

    def go_on(self) -> None:
        """Extend the lease if it is time to. Call this before each step of a long work.

        Raises Interrupted and LeaseLost.
        """
        if self.stop.is_set():
            raise Interrupted
        self.keep()

    def keep(self) -> None:
        """Extend the lease if it is time to. Raises LeaseLost."""
        if time.monotonic() - self._extended_at < EXTEND_EVERY:
            return
        self.demand(self.queue.extend_batch(self.id, self.worker, LEASE))
        self._extended_at = time.monotonic()
        self.observer.pulse()

    def demand(self, is_held: bool) -> None:
        """Raise LeaseLost unless a call of the queue found that the batch is held."""
        if not is_held:
            raise LeaseLost

    def give_back(self, look_in: timedelta, provider_state: str | None = None) -> None:
        """End the lease, so that a worker looks at the batch again after `look_in`."""
        self.queue.report_batch(self.id, self.worker, provider_state, look_in)

    def release_rest(self, *, to_wait: bool) -> None:
        """Release the jobs that it still has: to wait for another batch, or the ordinary way."""
        while self.queue.release_batch_jobs(
            self.id, self.worker, to_wait=to_wait, most=RELEASED_AT_ONCE
        ):
            self.keep()

    def report(self, event: str, **fields: object) -> None:
        """Send an event about the batch to the observer."""
        self.observer.event(
            event,
            batch=self.id,
            table=self.batch.table_name,
            column=self.batch.embedding_column,
            model=self.batch.model,
            **fields,
        )
