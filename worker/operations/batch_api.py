"""Backfills by the Batch API of a provider: at half the price, within a day."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event

from worker.batches.clients import BatchApis
from worker.batches.options import BatchOptions
from worker.batches.serving import BatchServer
from worker.database.migrations import MIGRATE
from worker.embedders.batch_api import BatchApi
from worker.embedders.registry import open_batch_api
from worker.engine.progress import Progress, RunStats
from worker.engine.retrying import until_answered
from worker.errors import SchemaError, SettingsError, Unreachable, WorkerError
from worker.observers.composite import CompositeObserver
from worker.operations.background import in_background
from worker.operations.portions import is_set
from worker.operations.scopes import resolve_scope
from worker.operations.session import select
from worker.queue import AdminQueue, Batch, BatchBackfill, CallSource, Scope, Target
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.settings import Settings

LOOK_EVERY = 15.0  # seconds between two looks whether a step of a batch is due


# Planning


def plan(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None = None,
    column: str | None = None,
    max_cost: float | None = None,
    batch: int = 1000,
    source: CallSource = "api",
    stop: Event | None = None,
    on_portion: Callable[[Target, int], None] = lambda *_: None,
) -> int:
    """Let the rows that lack a vector wait for a batch. Returns how many jobs wait newly.

    `max_cost`: the most US dollars for each column. `batch`: the most rows in a transaction. Set
    `stop` from another thread to end after the current one; `on_portion` is called after each, with
    how many of the column wait newly so far. Raises SettingsError if a column cannot be embedded in
    batches.
    """
    targets = batchable(queue, settings, table=table, column=column, max_cost=max_cost)
    planned = 0
    for target in targets:
        of_column = 0
        while not is_set(stop) and (
            jobs := queue.plan_batches(target, batch, max_cost, source=source)
        ):
            of_column += jobs
            on_portion(target, of_column)
        planned += of_column
    return planned


def batchable(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None = None,
    column: str | None = None,
    max_cost: float | None = None,
) -> list[Target]:
    """Return the columns of a scope. Raises SettingsError if one of them cannot be embedded in
    batches, and SchemaError if the schema has no batches yet."""
    demand_batches(queue)
    if max_cost is not None and max_cost <= 0:
        raise SettingsError("--max-cost is not above 0", "Give more, or leave it out.")
    targets = select(queue, table, column).targets
    for target in targets:
        _check_batchable(target, settings, max_cost)
    return targets


def demand_batches(queue: AdminQueue) -> None:
    """Raise SchemaError if the schema has no batches yet."""
    if not queue.has_batches():
        raise SchemaError("the schema of this database has no batches yet", MIGRATE)


def _check_batchable(target: Target, settings: Settings, max_cost: float | None) -> None:
    if target.chunk_format or target.enhance_model:
        cause = "are in chunks" if target.chunk_format else "go through a chat model"
        raise SettingsError(
            f"the texts of {target.named} {cause}, and cannot be embedded in batches",
            "Backfill it without --batch-api; choose others with --table and --column.",
        )
    with closing(open_batch_api_of(target, settings)) as api:
        if max_cost is not None and api.price is None:
            raise SettingsError(
                f"the price of {api.model} is not known, so --max-cost cannot be used",
                "Leave it out, and set a limit in your account at the provider.",
            )


def open_batch_api_of(target: Target, settings: Settings) -> BatchApi:
    """Open the Batch API of the model of a column. Raises SettingsError."""
    model = target.model or settings.embedding_model
    return open_batch_api(model, target.dimensions, settings, target.document_prompt)


# Serving


@contextmanager
def batch_server(
    queue: AdminQueue, settings: Settings, scope: Scope, observer: Progress, stop: Event
) -> Iterator[BatchServer]:
    """Yield what takes the steps of the batches of a scope."""
    with closing(BatchApis(partial(_open_api, settings))) as apis:
        yield BatchServer(queue, apis, scope, batch_options(settings), observer, stop)


def _open_api(settings: Settings, model: str, width: int | None, prompt: str | None) -> BatchApi:
    return open_batch_api(model, width, settings, prompt)


def batch_options(settings: Settings) -> BatchOptions:
    """Return the options of the settings."""
    return BatchOptions(
        settings.embedding_batch_poll,
        settings.embedding_batch_tokens,
        settings.embedding_cache_mb,
    )


def serve_once(
    queue: AdminQueue, settings: Settings, scope: Scope, observer: Progress, stop: Event
) -> None:
    """Take every step of batches that is due, if the schema has batches."""
    if queue.has_batches():
        with batch_server(queue, settings, scope, _EventsOf(observer), stop) as server:
            server.step()


class _EventsOf:
    """Passes the events of batches to the observer of a run, whose statistics are its own."""

    def __init__(self, observer: Progress) -> None:
        self.pulse = observer.pulse
        self.event = observer.event

    def update(self, stats: RunStats) -> None:
        pass


def batches_served(
    settings: Settings, scope: Scope, observer: Progress, is_paused: Callable[[], bool]
) -> AbstractContextManager[None]:
    """Serve batches in a thread, except while `is_paused`, until the end of the `with`."""

    def serve(queue: AdminQueue, stop: Event) -> None:
        if not queue.has_batches():
            stop.wait()
        with batch_server(queue, settings, scope, observer, stop) as server:
            while not stop.is_set():
                if not is_paused():
                    server.step()
                stop.wait(_interval(settings))

    def report(error: WorkerError | None, cause: str) -> None:
        if not isinstance(error, Unreachable):  # which the run reports
            observer.event("batches_interrupted", cause=cause)

    return in_background({"batches": serve}, settings, report)


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

    `max_cost`: the most US dollars for each column. With `detach`, it only submits: running workers
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
            stop.wait(_interval(settings))


def _left(server: BatchServer) -> BatchesLeft:
    return BatchesLeft(server.under_way(), server.backfills())


def _interval(settings: Settings) -> float:
    """Seconds between two looks."""
    return min(LOOK_EVERY, settings.embedding_batch_poll.total_seconds())


# Showing and cancelling


def find_batch(queue: AdminQueue, id: int) -> Batch:
    """Return a batch. Raises SettingsError if there is none of this number."""
    demand_batches(queue)
    found = [batch for batch in queue.batches() if batch.id == id]
    if not found:
        raise SettingsError(f"there is no batch {id}", "`worker batches list --all` lists them.")
    return found[0]


def cancel(
    queue: AdminQueue,
    settings: Settings,
    ids: Sequence[int],
    observer: Progress,
    stop: Event,
    *,
    source: CallSource = "api",
) -> None:
    """Cancel batches that are under way. What is done of them is still written.

    This worker tells the provider, if it has the key; else another one does. Raises SettingsError
    if one of them is not under way.
    """
    known = {batch.id: batch for batch in queue.batches() if batch.is_under_way}
    for id in ids:
        if id not in known:
            raise SettingsError(
                f"batch {id} is not under way", "`worker batches list` shows those that are."
            )
    for id in ids:
        queue.cancel_batch(id, source=source)
    scope = resolve_scope(queue, settings, None, None)
    with batch_server(queue, settings, scope, observer, stop) as server:
        server.look_at(ids)


def cancel_waiting(
    queue: AdminQueue,
    *,
    table: str | None = None,
    column: str | None = None,
    source: CallSource = "api",
    stop: Event | None = None,
) -> int:
    """Let jobs that wait for a batch be embedded the ordinary way. Returns how many did wait."""
    cancelled = 0
    for target in select(queue, table, column).targets:
        while not is_set(stop) and (
            jobs := queue.cancel_waiting(target, JOBS_IN_ONE_CALL, source=source)
        ):
            cancelled += jobs
    return cancelled
