"""The commands that fill the queue: `requeue`, `backfill`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from worker.cli.console import confirmed, counted, name_of, out, out_json, say
from worker.cli.estimate import print_forecast
from worker.cli.process import AsJson, Column, DryRun, Table
from worker.cli.progress import LINE_EVERY
from worker.cli.session import load_settings, open_queue
from worker.cli.summary import report_unserved
from worker.errors import SettingsError
from worker.queue import AdminQueue, Target

RecordId = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Requeue the job of this record, whatever its status."),
]
ErrorClass = Annotated[
    str | None, typer.Option(metavar="CLASS", help="Requeue jobs that failed for this reason.")
]
Everything = Annotated[
    bool, typer.Option("--all", help="Requeue jobs of every status: embeds everything again.")
]


def requeue(
    failed: Annotated[bool, typer.Option("--failed", help="Requeue failed jobs.")] = False,
    table: Table = None,
    column: Column = None,
    record_id: RecordId = None,
    error_class: ErrorClass = None,
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Make jobs pending again, so that they are embedded again."""
    if not (failed or record_id or error_class or everything):
        raise SettingsError(
            "nothing says what to requeue",
            "Choose: --failed, --error-class CLASS, --id ID, or --all.",
        )
    if everything and (failed or error_class):
        raise SettingsError("--all contradicts --failed and --error-class", "Use only one of them.")
    if everything and not yes and not confirmed("Embed every record of it again?"):
        raise SettingsError("--all embeds every record again", "Add --yes if that is meant.")
    settings = load_settings()
    with open_queue(settings) as queue:
        found = queue.targets(table, column)
        count = queue.requeue(
            status="failed" if failed or error_class else None,
            table=found[0].table_name if table else None,
            column=column,
            record=record_id,
            error_class=error_class,
        )
    out(f"Requeued: {count}")


def backfill(
    table: Table = None,
    column: Column = None,
    batch: Annotated[
        int,
        typer.Option(min=1, max=100_000, metavar="N", help="Rows to enqueue in one transaction."),
    ] = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Enqueue the rows that lack a vector. If interrupted, the next call continues."""
    settings = load_settings(asks_model=dry_run)
    total = 0
    with open_queue(settings) as queue:
        if dry_run:
            found = print_forecast(
                queue, settings, table=table, column=column, missing=True, as_json=as_json
            )
            return report_unserved(found, settings.embedding_model)
        for target in queue.targets(table, column):
            total += _enqueued(queue, target, batch)
    if as_json:
        out_json({"enqueued": total})
    else:
        out(f"Enqueued: {total}")
    return 0


def _enqueued(queue: AdminQueue, target: Target, batch: int) -> int:
    """Backfill a column, with a line on stderr every few seconds. Returns how many rows it took."""
    enqueued = 0
    reported_at = time.monotonic()
    while rows := queue.backfill(target, batch):
        enqueued += rows
        if time.monotonic() - reported_at > LINE_EVERY:
            reported_at = time.monotonic()
            say(f"{name_of(target)}: {counted(enqueued, 'row')} so far")
    say(f"{name_of(target)}: {counted(enqueued, 'row')} enqueued")
    return enqueued
