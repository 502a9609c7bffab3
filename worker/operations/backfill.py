"""Enqueues what the queue lacks: rows without a vector, and texts that changed unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.errors import Busy, StatementTimeout
from worker.operations.session import select
from worker.queue import AdminQueue, Rechecked, Target

RECHECK_BATCH = 2000  # jobs in one call, and rows to enqueue


@dataclass(frozen=True, slots=True)
class RecheckResult:
    """How many jobs were compared with their rows, how many differ, how many rows lack a vector."""

    checked: int = 0
    changed: int = 0
    missing: int = 0


def backfill(
    queue: AdminQueue, *, table: str | None = None, column: str | None = None, batch: int = 1000
) -> int:
    """Enqueue all rows that lack a vector, `batch` in one transaction. Returns how many."""
    targets = select(queue, table, column).targets
    return sum(backfill_column(queue, target, batch) for target in targets)


def backfill_column(
    queue: AdminQueue, target: Target, batch: int, on_batch: Callable[[int], None] = lambda _: None
) -> int:
    """Enqueue all rows of a column that lack a vector. Returns how many.

    `on_batch` is called after every transaction, with how many were enqueued so far.
    """
    enqueued = 0
    while rows := queue.backfill(target, batch):
        enqueued += rows
        on_batch(enqueued)
    return enqueued


def recheck(
    queue: AdminQueue,
    *,
    table: str | None = None,
    column: str | None = None,
    dry_run: bool = False,
    on_batch: Callable[[RecheckResult], None] = lambda _: None,
) -> RecheckResult:
    """Enqueue the texts that changed without a write to their row; with `dry_run`, count them.

    `on_batch` is called after every call of the database, with the counts so far.
    """
    selection = select(queue, table, column)
    found = RecheckResult()
    for stretch in _stretches(queue, selection.table, column, dry_run):
        found = RecheckResult(found.checked + stretch.checked, found.changed + stretch.changed)
        on_batch(found)
    missing = sum(_missing(queue, target, dry_run) for target in selection.targets)
    return RecheckResult(found.checked, found.changed, missing)


def _stretches(
    queue: AdminQueue, table: str | None, column: str | None, dry_run: bool
) -> Iterator[Rechecked]:
    """Go through the queue in batches; in smaller ones if a batch takes too long."""
    after: int | None = 0
    batch = RECHECK_BATCH
    while after is not None:
        try:
            stretch = queue.recheck(table, column, after, batch, dry_run=dry_run)
        except StatementTimeout:
            if batch == 1:
                raise
            batch //= 2
            continue
        except Busy as locked:
            raise Busy(locked.cause, "Try again when that session is done with it.") from None
        yield stretch
        after = stretch.looked_to


def _missing(queue: AdminQueue, target: Target, dry_run: bool) -> int:
    """Enqueue the rows that lack a vector; with `dry_run`, only count them. Return how many."""
    if target.problem or not target.enabled:
        return 0
    if dry_run:
        found = queue.estimate(
            target.model or "", target.table_name, target.embedding_column, missing=True
        )
        return sum(column.row_count or 0 for column in found)
    return backfill_column(queue, target, RECHECK_BATCH)
