"""`worker recheck`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from worker.cli.console import out, out_json, say
from worker.cli.process import AsJson, Column, Table
from worker.cli.session import load_settings, queue_of
from worker.errors import Busy, StatementTimeout
from worker.queue import OperatorQueue, Rechecked, Target

BATCH = 2000  # jobs in one call, and rows to enqueue
LINE_AFTER = 5.0  # seconds


def recheck(
    table: Table = None,
    column: Column = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what differs, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Enqueue the texts that changed without a write to their row."""
    settings = load_settings()
    checked = changed = 0
    with queue_of(settings) as queue:
        found = queue.targets(table, column)
        only_table = found[0].table_name if table else None
        reported_at = time.monotonic()
        for stretch in _stretches(queue, only_table, column, dry_run):
            checked += stretch.checked
            changed += stretch.changed
            if time.monotonic() - reported_at > LINE_AFTER:
                reported_at = time.monotonic()
                say(f"checked {checked} jobs, {changed} differ")
        if dry_run:
            estimates = queue.estimate(settings.embedding_model, only_table, column, missing=True)
            missing = sum(estimate.row_count or 0 for estimate in estimates)
        else:
            missing = sum(_enqueue_missing(queue, target) for target in found)
    if as_json:
        out_json({"checked": checked, "changed": changed, "missing": missing})
        return
    out(f"Checked: {checked}")
    out(f"Changed: {changed}")
    out(f"Missing: {missing}")
    if changed or missing:
        say("hint: `worker recheck` enqueues them" if dry_run else "hint: now `worker process`")


def _stretches(
    queue: OperatorQueue, table: str | None, column: str | None, dry_run: bool
) -> Iterator[Rechecked]:
    """All of the queue, piece by piece; in smaller ones where a piece takes too long."""
    after: int | None = 0
    batch = BATCH
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


def _enqueue_missing(queue: OperatorQueue, target: Target) -> int:
    """Enqueue the rows without a vector: some may have entered the filter. Returns how many."""
    if target.problem:
        return 0
    enqueued = 0
    while rows := queue.backfill(target, BATCH):
        enqueued += rows
    return enqueued
