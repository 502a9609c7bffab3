"""Lets the rows that lack a vector wait for batches of a Batch API, or wait no longer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from threading import Event

from worker.database.migrations import MIGRATE
from worker.embedders.batch_api import BatchApi
from worker.embedders.registry import open_batch_api
from worker.errors import SchemaError, SettingsError
from worker.operations.portions import is_set
from worker.operations.session import select
from worker.queue import AdminQueue, CallSource, Target
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.settings import Settings


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

    `max_cost`: the most US dollars, for one column. `batch`: the most rows in a transaction. Set
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
    batches, or `max_cost` is given for several, and SchemaError if the schema has no batches.
    """
    demand_batches(queue)
    if max_cost is not None and max_cost <= 0:
        raise SettingsError("--max-cost is not above 0", "Give more, or leave it out.")
    targets = select(queue, table, column).targets
    if max_cost is not None and len(targets) > 1:
        raise SettingsError(
            f"--max-cost limits the cost of one column, and {len(targets)} are chosen",
            "Name one with --table and --column.",
        )
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
