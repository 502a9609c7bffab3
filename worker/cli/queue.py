"""The commands that fill the queue: `requeue`, `backfill`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.console import confirmed, name_of, out, out_json, say
from worker.cli.estimate import print_forecast
from worker.cli.process import AsJson, Column, DryRun, Table
from worker.cli.session import load_settings, queue_of
from worker.cli.summary import report_set_aside
from worker.errors import SettingsError


def requeue(
    failed: Annotated[bool, typer.Option("--failed", help="Those that failed.")] = False,
    table: Table = None,
    column: Column = None,
    record_id: Annotated[
        str | None, typer.Option("--id", help="Only the job of this record, whatever its status.")
    ] = None,
    error_class: Annotated[
        str | None, typer.Option(help="Only those that failed for this reason.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Of every status: embeds all of it again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
) -> None:
    """Make jobs pending again, to be embedded anew."""
    if not (failed or record_id or error_class or everything):
        raise SettingsError(
            "it is not said what to requeue",
            "Give --failed, --error-class CLASS, --id ID, or --all.",
        )
    if everything and (failed or error_class):
        raise SettingsError("--all contradicts --failed and --error-class", "Leave one away.")
    if everything and not yes and not confirmed("Embed every record of it again?"):
        raise SettingsError("--all embeds every record again", "Add --yes if that is meant.")
    settings = load_settings()
    with queue_of(settings) as queue:
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
        int, typer.Option(min=1, max=100_000, help="Rows to enqueue in one transaction.")
    ] = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Enqueue the rows that lack a vector. May be interrupted: it goes on where it was."""
    settings = load_settings(asks_model=dry_run)
    total = 0
    with queue_of(settings) as queue:
        if dry_run:
            found = print_forecast(
                queue, settings, table=table, column=column, missing=True, as_json=as_json
            )
            return int(not report_set_aside(found))
        for target in queue.targets(table, column):
            enqueued = 0
            while rows := queue.backfill(target, batch):
                enqueued += rows
            say(f"{name_of(target)}: {enqueued} rows enqueued")
            total += enqueued
    if as_json:
        out_json({"enqueued": total})
    else:
        out(f"Enqueued: {total}")
    return 0
