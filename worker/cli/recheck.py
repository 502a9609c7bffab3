"""`worker recheck`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from worker.cli.console import out, out_json, say
from worker.cli.process import AsJson, Column, Table
from worker.cli.progress import LINE_EVERY
from worker.cli.session import load_settings, open_queue
from worker.errors import Busy, StatementTimeout
from worker.queue import AdminQueue, Rechecked, Target

BATCH = 2000  # jobs in one call, and rows to enqueue


def recheck(
    table: Table = None,
    column: Column = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what differs, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Enqueue the texts that changed without a write to their row."""
    checked = changed = 0
    with open_queue(load_settings()) as queue:
        found = queue.targets(table, column)
        only_table = found[0].table_name if table else None
        reported_at = time.monotonic()
        for stretch in _stretches(queue, only_table, column, dry_run):
            checked += stretch.checked
            changed += stretch.changed
            if time.monotonic() - reported_at > LINE_EVERY:
                reported_at = time.monotonic()
                say(f"checked {checked} jobs, {changed} differ")
        missing = sum(_missing(queue, target, dry_run) for target in found)
    if as_json:
        out_json({"checked": checked, "changed": changed, "missing": missing})
        return
    out(f"Checked: {checked}")
    out(f"Changed: {changed}")
    out(f"Missing: {missing}")
    if changed or missing:
        say("hint: `worker recheck` enqueues them" if dry_run else "hint: now `worker process`")


def _stretches(
    queue: AdminQueue, table: str | None, column: str | None, dry_run: bool
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


def _missing(queue: AdminQueue, target: Target, dry_run: bool) -> int:
    """How many rows lack a vector, since they entered the filter or otherwise; enqueues them."""
    if target.problem or not target.enabled:
        return 0
    if dry_run:
        found = queue.estimate(
            target.model or "", target.table_name, target.embedding_column, missing=True
        )
        return sum(column.row_count or 0 for column in found)
    enqueued = 0
    while rows := queue.backfill(target, BATCH):
        enqueued += rows
    return enqueued
