"""Enqueues what the queue lacks: rows without a vector, and texts that changed unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from worker.operations.portions import is_set, portions
from worker.operations.session import select
from worker.queue import AdminQueue, Target
from worker.queue.portion import JOBS_IN_ONE_CALL


@dataclass(frozen=True, slots=True)
class RecheckResult:
    """How many jobs were compared with their rows, how many differ, how many rows lack a vector."""

    checked: int = 0
    changed: int = 0
    missing: int = 0


def backfill(
    queue: AdminQueue,
    *,
    table: str | None = None,
    column: str | None = None,
    batch: int = 1000,
    stop: Event | None = None,
) -> int:
    """Enqueue all rows that lack a vector, `batch` in one transaction. Returns how many.

    Set `stop` from another thread to end after the current batch.
    """
    targets = select(queue, table, column).targets
    return sum(backfill_column(queue, target, batch, stop=stop) for target in targets)


def backfill_column(
    queue: AdminQueue,
    target: Target,
    batch: int,
    *,
    stop: Event | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> int:
    """Enqueue all rows of a column that lack a vector. Returns how many.

    Set `stop` from another thread to end after the current batch. `on_batch` is called after every
    batch, with how many were enqueued so far.
    """
    enqueued = 0
    while not is_set(stop) and (rows := queue.backfill(target, batch)):
        enqueued += rows
        on_batch(enqueued)
    return enqueued


def recheck(
    queue: AdminQueue,
    *,
    table: str | None = None,
    column: str | None = None,
    dry_run: bool = False,
    stop: Event | None = None,
    on_batch: Callable[[RecheckResult], None] = lambda _: None,
) -> RecheckResult:
    """Enqueue the texts that changed without a write to their row; with `dry_run`, count them.

    Set `stop` from another thread to end after the current batch. `on_batch` is called after every
    batch, with the counts so far.
    """
    selection = select(queue, table, column)
    found = RecheckResult()
    for batch in portions(
        lambda after: queue.recheck(selection.table, selection.column, after, dry_run=dry_run), stop
    ):
        found = RecheckResult(found.checked + batch.checked, found.changed + batch.changed)
        on_batch(found)
    missing = sum(_missing(queue, target, stop, dry_run=dry_run) for target in selection.targets)
    return RecheckResult(found.checked, found.changed, missing)


def _missing(queue: AdminQueue, target: Target, stop: Event | None, *, dry_run: bool) -> int:
    """Enqueue the rows that lack a vector; with `dry_run`, only count them. Return how many."""
    if target.problem or not target.enabled or is_set(stop):
        return 0
    if dry_run:
        found = queue.estimate(
            target.model or "", target.table_name, target.embedding_column, missing=True
        )
        return sum(column.row_count or 0 for column in found)
    return backfill_column(queue, target, JOBS_IN_ONE_CALL, stop=stop)
