"""The commands about jobs: `requeue`, `backfill`, `recheck`, `list`, `reprocess`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from threading import Event
from typing import Literal

from worker.cli.console import ProgressLine, confirmed, out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AsJson,
    BackfillBatch,
    BatchApi,
    BatchDetach,
    BatchMaxCost,
    Column,
    CountOnly,
    DryRun,
    ErrorClass,
    Everything,
    JobsShown,
    Pattern,
    RecordId,
    RequeueFailed,
    ShowFailed,
    ShowPending,
    ShowProcessing,
    Table,
    Yes,
)
from worker.cli.render.forecast import print_forecast
from worker.cli.render.jobs import print_job, print_matches
from worker.cli.render.text import name_of
from worker.cli.render.unserved import report_unserved
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.errors import SettingsError
from worker.figures import counted
from worker.operations import backfill as enqueuing
from worker.operations import jobs
from worker.operations.estimate import estimate
from worker.operations.session import open_queue, select
from worker.queue import AdminQueue, Target

BATCH = "this batch"
CONTINUES = "the same command continues with the rest"
BEGINS_AGAIN = "the same command begins again with the first job"


def requeue(
    failed: RequeueFailed = False,
    table: Table = None,
    column: Column = None,
    record_id: RecordId = None,
    error_class: ErrorClass = None,
    everything: Everything = False,
    yes: Yes = False,
) -> int:
    """Make jobs pending again, so that they are embedded again."""
    if not (failed or record_id or error_class or everything):
        raise SettingsError(
            "no jobs are selected",
            "Choose what to requeue: --failed, --error-class CLASS, --id ID, or --all.",
        )
    if everything and (failed or error_class):
        raise SettingsError("--all contradicts --failed and --error-class", "Use only one of them.")
    if everything and not yes and not confirmed("Embed every selected record again?"):
        raise SettingsError("--all embeds every record again", "Add --yes to confirm.")
    status: Literal["failed"] | None = "failed" if failed or error_class else None
    progress = ProgressLine()
    with open_queue(load_settings()) as queue, stopped_by_signals(BATCH) as stop:
        count = jobs.requeue(
            queue,
            status=status,
            table=table,
            column=column,
            record=record_id,
            error_class=error_class,
            source="cli",
            stop=stop,
            on_batch=lambda far: progress.say(f"requeued {counted(far, 'job')} so far"),
        )
    out(f"Requeued: {count}")
    return _code_of(stop, CONTINUES if status else BEGINS_AGAIN)


def backfill(
    table: Table = None,
    column: Column = None,
    batch: BackfillBatch = 1000,
    batch_api: BatchApi = False,
    max_cost: BatchMaxCost = None,
    detach: BatchDetach = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Enqueue the rows that lack a vector. If interrupted, the next call continues."""
    settings = load_settings(asks_model=dry_run or batch_api)
    if batch_api:
        # imports the client of the provider, which the other commands here do not need
        from worker.cli.commands.batches import Asked, backfill_by_batches, forecast

        asked = Asked(table, column, batch, max_cost, detach, as_json)
        return forecast(settings, asked) if dry_run else backfill_by_batches(settings, asked)
    if max_cost is not None or detach:
        raise SettingsError(
            "--max-cost and --detach are those of a backfill in batches", "Add --batch-api."
        )
    with open_queue(settings) as queue:
        if dry_run:
            found = estimate(queue, settings, table=table, column=column, missing=True)
            print_forecast(found, missing=True, as_json=as_json)
            return report_unserved(found.targets, settings.embedding_model)
        targets = select(queue, table, column).targets
        with stopped_by_signals(BATCH) as stop:
            total = sum(_backfill_visibly(queue, target, batch, stop) for target in targets)
    if as_json:
        out_json({"enqueued": total})
    else:
        out(f"Enqueued: {total}")
    return _code_of(stop, CONTINUES)


def _backfill_visibly(queue: AdminQueue, target: Target, batch: int, stop: Event) -> int:
    """Backfill a column, with progress on stderr. Return how many rows it enqueued."""
    name = name_of(target)
    progress = ProgressLine()
    enqueued = enqueuing.backfill_column(
        queue,
        target,
        batch,
        stop=stop,
        on_batch=lambda far: progress.say(f"{name}: {counted(far, 'row')} so far"),
    )
    say(f"{name}: {counted(enqueued, 'row')} enqueued")
    return enqueued


def recheck(
    table: Table = None,
    column: Column = None,
    dry_run: CountOnly = False,
    as_json: AsJson = False,
) -> int:
    """Enqueue the texts that changed without a write to their row."""
    progress = ProgressLine()
    with open_queue(load_settings()) as queue, stopped_by_signals(BATCH) as stop:
        found = enqueuing.recheck(
            queue,
            table=table,
            column=column,
            dry_run=dry_run,
            stop=stop,
            on_batch=lambda far: progress.say(f"checked {far.checked} jobs, {far.changed} differ"),
        )
    if as_json:
        out_json(asdict(found))
    else:
        out(f"Checked: {found.checked}")
        out(f"Changed: {found.changed}")
        out(f"Missing: {found.missing}")
        if found.changed or found.missing:
            say("hint: `worker recheck` enqueues them" if dry_run else "hint: now `worker process`")
    return _code_of(stop, BEGINS_AGAIN)


def _code_of(stop: Event, how_to_go_on: str) -> int:
    """Say that the command was interrupted, if it was. Return its exit code."""
    if not stop.is_set():
        return 0
    say(f"interrupted: {how_to_go_on}")
    return INTERRUPTED


def list_jobs(
    pending: ShowPending = False,
    processing: ShowProcessing = False,
    failed: ShowFailed = False,
    table: Table = None,
    column: Column = None,
    limit: JobsShown = 20,
    as_json: AsJson = False,
) -> None:
    """List unfinished jobs, each with the beginning of its text."""
    asked = {"processing": processing, "pending": pending, "failed": failed}
    statuses = [status for status, is_wanted in asked.items() if is_wanted] or list(asked)
    with open_queue(load_settings()) as queue:
        found = jobs.list_jobs(queue, statuses, table=table, column=column, limit=limit)
    if as_json:
        out_json([asdict(job) for job in found])
        return
    for job in found:
        print_job(job)
    if not found:
        say(f"no job is {' or '.join(statuses)}")
    elif len(found) == limit:
        say(f"hint: these are the first {limit}; --limit shows more, `worker status` counts them")


def reprocess(
    pattern: Pattern,
    table: Table = None,
    column: Column = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Embed again the records whose text or id matches a pattern."""
    if pattern in ("", "~"):
        raise SettingsError("the pattern is empty", "Write '*words*', an id, or '~regex'.")
    code = requeued = 0
    with open_queue(load_settings()) as queue:
        if yes or _agreed(_find_visibly(queue, pattern, table, column)):
            progress = ProgressLine()
            with stopped_by_signals(BATCH) as stop:
                requeued = jobs.reprocess(
                    queue,
                    pattern,
                    table=table,
                    column=column,
                    source="cli",
                    stop=stop,
                    on_batch=lambda far: progress.say(f"requeued {counted(far, 'job')} so far"),
                )
            code = _code_of(stop, BEGINS_AGAIN)
    if not requeued and not code:
        say("nothing in the queue matches", *_hint_on(pattern))
    if as_json:
        out_json({"requeued": requeued})
    else:
        out(f"Requeued: {requeued}")
    return code


def _find_visibly(
    queue: AdminQueue, pattern: str, table: str | None, column: str | None
) -> jobs.Matches:
    """Find what matches, with progress on stderr."""
    progress = ProgressLine()
    return jobs.find_matches(
        queue,
        pattern,
        table=table,
        column=column,
        on_batch=lambda far: progress.say(f"found {counted(far, 'record')} so far"),
    )


def _hint_on(pattern: str) -> list[str]:
    """Suggest wildcards for a pattern without any, which must equal the whole text or id."""
    if set("*?") & set(pattern) or pattern.startswith("~"):
        return []
    quoted = shlex.quote(f"*{pattern}*")
    return [f"hint: a pattern must match the whole text or id: `worker reprocess {quoted}`"]


def _agreed(found: jobs.Matches) -> bool:
    """Show the matches and ask for confirmation. Raises SettingsError without it."""
    if not found.matched:
        return False
    print_matches(found)
    if not confirmed("Embed these again?"):
        raise SettingsError("cancelled: nothing was requeued", "Add --yes to skip the question.")
    return True
