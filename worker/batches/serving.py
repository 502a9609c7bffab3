"""Serves batches: prepares and submits them, looks at those under way, collects what has ended.

Any worker can take any step: what it needs is in the database and at the provider.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event

from worker.batches.attending import UNKNOWN, give_up, look, send
from worker.batches.clients import BatchApis
from worker.batches.holding import LEASE, HeldBatch, Interrupted, LeaseLost
from worker.batches.limits import room_for
from worker.batches.options import BatchOptions
from worker.embedders.batch_api import BatchApi
from worker.engine.heartbeat import Leases
from worker.engine.progress import Progress, RunStats
from worker.engine.writing import Writer
from worker.errors import ProviderError
from worker.queue import AdminQueue, Batch, BatchBackfill, Scope

UNKNOWN_FOR = 600.0  # seconds, until a batch that the provider does not know counts as lost
GONE = "the provider does not know the batch any more"


@dataclass(slots=True)
class BatchServer:
    """Takes the steps of the batches of a scope, one after another."""

    queue: AdminQueue
    apis: BatchApis
    scope: Scope
    options: BatchOptions
    observer: Progress
    stop: Event
    stats: RunStats = field(default_factory=RunStats)
    _reported: dict[int, str] = field(default_factory=dict)
    """Why a batch cannot be looked at now, as it was reported."""
    _unknown_since: dict[int, float] = field(default_factory=dict)
    _seen: tuple[int, int] = (0, 0)

    def step(self) -> None:
        """Take every step that is due now. Raises Unreachable."""
        under_way = self.under_way()
        now = self.queue.clock() if under_way else None
        for batch in under_way:
            if now and _is_due(batch, now):
                self._attend_to(batch)
        for backfill in self.backfills():
            self._send_all(backfill)
        self._report_seen()

    def look_at(self, ids: Collection[int]) -> None:
        """Take the next step of these batches now, unless other workers do."""
        for batch in self.under_way():
            if batch.id in ids:
                self._attend_to(batch)

    def under_way(self) -> list[Batch]:
        """The batches of the scope that have not ended."""
        return [
            batch
            for batch in self.queue.batches()
            if batch.is_under_way and self.scope.includes(batch.table_name, batch.embedding_column)
        ]

    def backfills(self) -> list[BatchBackfill]:
        """The batch backfills of the scope."""
        return [
            backfill
            for backfill in self.queue.batch_backfills()
            if self.scope.includes(backfill.table_name, backfill.embedding_column)
        ]

    def _attend_to(self, batch: Batch) -> None:
        """Take the next step of a batch, unless another worker does, or this one lacks the key."""
        api = None if self.stop.is_set() else self.apis.of_full(batch.model)
        taken = api and self.queue.next_batch(self.scope.worker, LEASE, batch.id)
        if not api or not taken:
            return
        held = self._held(taken, api)
        with self._attended(held):
            if self._is_lost(taken):
                give_up(held, "not_found", GONE)
            else:
                look(held)
            self._reported.pop(batch.id, None)

    def _is_lost(self, batch: Batch) -> bool:
        """Whether the provider has not known a batch for UNKNOWN_FOR. A worker with the key of
        another account does not know it either, so what others found in between counts."""
        if batch.provider_state != UNKNOWN:
            self._unknown_since.pop(batch.id, None)
            return False
        since = self._unknown_since.setdefault(batch.id, time.monotonic())
        return time.monotonic() - since >= UNKNOWN_FOR

    def _send_all(self, backfill: BatchBackfill) -> None:
        """Submit batches of a column, until none of its jobs wait or a limit leaves no room."""
        api = self.apis.of(
            backfill.model or self.scope.default_model,
            backfill.dimensions,
            backfill.document_prompt,
        )
        latest: BatchBackfill | None = backfill
        while api and latest and latest.waiting and not self.stop.is_set():
            if not self._send_one(latest, api):
                return
            latest = next(
                (each for each in self.backfills() if each.target_id == backfill.target_id), None
            )

    def _send_one(self, backfill: BatchBackfill, api: BatchApi) -> bool:
        """Submit one batch of a column. Returns whether it is under way."""
        others = [
            batch
            for batch in self.queue.batches()
            if batch.is_under_way and batch.model.partition("#")[0] == api.model
        ]
        room = room_for(backfill, others, self.options.most_tokens)
        begun = room and self.queue.begin_batch(
            self.scope.worker,
            LEASE,
            self.scope.default_model,
            backfill.table_name,
            backfill.embedding_column,
        )
        if not room or not begun:
            return False
        held = self._held(begun, api)
        with self._attended(held):
            return send(held, room, self.scope.default_model)
        return False

    def _held(self, batch: Batch, api: BatchApi) -> HeldBatch:
        writer = Writer(self.queue, Leases(), self.stats, self.stop)
        return HeldBatch(
            self.queue,
            api,
            batch,
            self.scope.worker,
            writer,
            self.options,
            self.observer,
            self.stop,
        )

    @contextmanager
    def _attended(self, held: HeldBatch) -> Iterator[None]:
        """End the lease of a batch if its step cannot be taken now."""
        try:
            yield
        except LeaseLost:
            return
        except Interrupted:
            held.give_back(timedelta(0))
        except ProviderError as error:
            held.give_back(self.options.poll)
            if self._reported.get(held.id) != error.cause:
                self._reported[held.id] = error.cause
                held.report(
                    "batch_failed",
                    error_class=error.error_class,
                    cause=error.cause,
                    hint=error.hint,
                )

    def _report_seen(self) -> None:
        """Report how many batches are under way and how many jobs wait, if that is news."""
        seen = (len(self.under_way()), sum(each.waiting for each in self.backfills()))
        if seen != self._seen:
            self._seen = seen
            self.observer.event("batches_seen", under_way=seen[0], waiting=seen[1])


def _is_due(batch: Batch, now: datetime) -> bool:
    """Whether a batch is to be looked at by now, and no worker holds it."""
    times = (batch.look_at, batch.lease_expires_at)
    return all(time is None or time <= now for time in times)
