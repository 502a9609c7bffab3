"""A backfill by the Batch API of a provider: at half the price, within a day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Event

from worker.batches.serving import BatchServer
from worker.engine.progress import Progress, RunStats
from worker.engine.retrying import until_answered
from worker.observers.composite import CompositeObserver
from worker.operations.batch_planning import plan
from worker.operations.batch_serving import batch_server, seconds_between_looks
from worker.operations.scopes import resolve_scope
from worker.queue import AdminQueue, Batch, BatchBackfill, Scope
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class BatchesLeft:
    """What is left of the batch backfills of a scope.

    `over_budget`: those for which --max-cost leaves no room.
    """

    under_way: list[Batch]
    backfills: list[BatchBackfill]

    @property
    def waiting(self) -> int:
        """How many jobs wait for a batch."""
        return sum(backfill.waiting for backfill in self.backfills)

    @property
    def over_budget(self) -> list[BatchBackfill]:
        return [each for each in self.backfills if each.waiting and each.is_over_budget]

    @property
    def are_done(self) -> bool:
        """Whether nothing more will come of them."""
        waiting = [backfill for backfill in self.backfills if backfill.waiting]
        return not self.under_way and waiting == self.over_budget


@dataclass(frozen=True, slots=True)
class BatchRun:
    """What one process did for batches, and what is left."""

    stats: RunStats
    left: BatchesLeft


def backfill_by_batches(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None = None,
    column: str | None = None,
    max_cost: float | None = None,
    detach: bool = False,
    stop: Event | None = None,
    observer: Progress | None = None,
) -> BatchRun:
    """Embed the rows that lack a vector in batches, and return when nothing is left that fits.

    `max_cost`: the most US dollars, for one column. With `detach`, it only submits: running workers
    collect. Set `stop` from another thread to end early. `observer` gets all events. Raises
    SettingsError if a column cannot be embedded in batches.
    """
    stop = stop or Event()
    plan(queue, settings, table=table, column=column, max_cost=max_cost, stop=stop)
    scope = resolve_scope(queue, settings, table, column)
    return serve_until_done(
        queue, settings, scope, observer or CompositeObserver(), stop, detach=detach
    )


def serve_until_done(
    queue: AdminQueue,
    settings: Settings,
    scope: Scope,
    observer: Progress,
    stop: Event,
    *,
    detach: bool = False,
    on_look: Callable[[BatchesLeft], None] = lambda _: None,
) -> BatchRun:
    """Serve batches until no job waits that fits, or `stop` is set; with `detach`, only once.

    Waits for a database that is out of reach.
    """
    with batch_server(queue, settings, scope, observer, stop) as server:
        while True:
            until_answered(server.step, observer, stop)
            left = until_answered(partial(_left, server), observer, stop)
            if left.are_done or detach or stop.is_set():
                return BatchRun(server.stats, left)
            on_look(left)
            stop.wait(seconds_between_looks(settings))


def _left(server: BatchServer) -> BatchesLeft:
    return BatchesLeft(server.under_way(), server.backfills())
