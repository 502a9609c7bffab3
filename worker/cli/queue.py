"""The commands that steer and show the queue: `requeue`, `status`, `backfill`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.console import (
    NOTHING_WATCHED,
    age,
    confirmed,
    name_of,
    one_line,
    out,
    out_json,
    out_table,
    say,
)
from worker.cli.estimate import print_forecast
from worker.cli.process import AsJson, Column, DryRun, Table
from worker.cli.session import load_settings, queue_of
from worker.cli.summary import report_set_aside
from worker.errors import SettingsError
from worker.queue import Failure, TargetStatus


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


def status(as_json: AsJson = False) -> None:
    """Show how far every watched column is, what failed, and which provider cannot be used."""
    with queue_of(load_settings()) as queue:
        columns, failures, providers = queue.status(), queue.failures(), queue.providers()
    if as_json:
        out_json(
            {
                "columns": [asdict(column) for column in columns],
                "failures": [asdict(failure) for failure in failures],
                "providers": [asdict(provider) for provider in providers],
            }
        )
        return
    if columns:
        _print_columns(columns)
    else:
        say(NOTHING_WATCHED)
    for column in columns:
        if column.problem:
            out(f"\nset aside: {name_of(column)}: {one_line(column.problem, 160)}")
            out("hint: mend the table, then run `worker watch` for it again")
    if failures:
        out("")
        _print_failures(failures)
    if providers and columns:
        out("")
    for provider in providers:
        since = provider.since.astimezone()
        trouble = one_line(provider.trouble, 160)
        out(f"stopped: {provider.provider} since {since:%Y-%m-%d %H:%M}: {trouble}")
        if provider.hint:
            out(f"hint: {one_line(provider.hint, 160)}")


def _print_failures(failures: list[Failure]) -> None:
    out_table(
        ["failed", "class", "column", "latest reason"],
        [
            (
                failure.failed,
                failure.error_class,
                name_of(failure),
                one_line(failure.latest_message, 100),
            )
            for failure in failures
        ],
    )


def _print_columns(columns: list[TargetStatus]) -> None:
    out_table(
        [
            "column",
            "pending",
            "processing",
            "completed",
            "failed",
            "skipped",
            "coverage",
            "due for",
        ],
        [
            (
                name_of(column),
                column.pending,
                column.processing,
                column.completed,
                column.failed,
                column.skipped,
                None if column.coverage is None else f"{column.coverage:.1f}%",
                age(column.oldest_due),
            )
            for column in columns
        ],
    )


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
    settings = load_settings()
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
