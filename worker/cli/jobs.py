"""The commands that show jobs one by one and embed some of them again: `list`, `reprocess`."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.cells import cell_len

from worker.cli.console import confirmed, counted, name_of, one_line, out, out_json, say
from worker.cli.durations import span
from worker.cli.process import AsJson, Column, Table
from worker.cli.session import load_settings, open_queue
from worker.errors import Busy, SettingsError, StatementTimeout
from worker.queue import AdminQueue, ListedJob, Reprocessed

EXAMPLES = 3


def list_(
    pending: Annotated[bool, typer.Option("--pending", help="Show pending jobs.")] = False,
    processing: Annotated[
        bool, typer.Option("--processing", help="Show jobs that a worker has claimed.")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Show failed jobs.")] = False,
    table: Table = None,
    column: Column = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="How many to show.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """List unfinished jobs, each with the beginning of its text."""
    asked = {"processing": processing, "pending": pending, "failed": failed}
    statuses = [status for status, is_wanted in asked.items() if is_wanted] or list(asked)
    with open_queue(load_settings()) as queue:
        found = queue.targets(table, column)
        only_table = found[0].table_name if table else None
        jobs = queue.list_jobs(statuses, only_table, column, limit)
    if as_json:
        out_json([asdict(job) for job in jobs])
        return
    for job in jobs:
        _print(job)
    if not jobs:
        say(f"no job is {' or '.join(statuses)}")
    elif len(jobs) == limit:
        say(f"hint: these are the first {limit}; --limit shows more, `worker status` counts them")


def _print(job: ListedJob) -> None:
    width = shutil.get_terminal_size((80, 24)).columns
    attempts = counted(job.attempts, "attempt")
    out(_head(name_of(job), job.record_id, width))
    out("    " + one_line(f"{job.status}, {attempts}, {_since(job)}", width - 4))
    if job.error_message:
        out("    " + one_line(f"{job.error_class or 'reason'}: {job.error_message}", width - 4))
    out("    " + _beginning(job.preview, width - 4))


def _head(column: str, record: str, width: int) -> str:
    column = one_line(column, max(width - 40, 10))  # which leaves room for a uuid
    return f"{column}  {one_line(record, max(width - cell_len(column) - 2, 10))}"


def _since(job: ListedJob) -> str:
    """What its times say of it."""
    now = datetime.now(UTC)
    if job.status == "failed":
        return f"{span((now - job.updated_at).total_seconds())} ago"
    if job.lease_expires_at is not None:
        left = (job.lease_expires_at - now).total_seconds()
        ending = f"ends in {span(left)}" if left > 0 else "has run out"
        return f"lease {ending}, {job.worker}"
    if job.available_at <= now:
        return f"due for {span((now - job.available_at).total_seconds())}"
    return f"due in {span((job.available_at - now).total_seconds())}"


def _beginning(preview: str | None, width: int) -> str:
    return "(no text that can be read)" if preview is None else f'"{one_line(preview, width - 2)}"'


def reprocess(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="What the whole text or the whole id must match, with * and ?; or ~REGEX.",
        ),
    ],
    table: Table = None,
    column: Column = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Embed records again whose text or id matches a pattern."""
    if pattern in ("", "~"):
        raise SettingsError("the pattern is empty", "Write '*words*', an id, or '~regex'.")
    with open_queue(load_settings()) as queue:
        found = queue.targets(table, column)
        only_table = found[0].table_name if table else None
        requeued = 0
        if yes or _agreed(_stretches(queue, pattern, only_table, column, dry_run=True)):
            stretches = _stretches(queue, pattern, only_table, column, dry_run=False)
            requeued = sum(stretch.matched for stretch in stretches)
    if not requeued:
        say("nothing in the queue matches", *_hint_on(pattern))
    if as_json:
        out_json({"requeued": requeued})
    else:
        out(f"Requeued: {requeued}")


def _hint_on(pattern: str) -> list[str]:
    """What was meant, most likely, by a pattern that must be the whole text as it is."""
    if set("*?") & set(pattern) or pattern.startswith("~"):
        return []
    quoted = shlex.quote(f"*{pattern}*")
    return [f"hint: a pattern must match the whole text or id: `worker reprocess {quoted}`"]


def _stretches(
    queue: AdminQueue, pattern: str, table: str | None, column: str | None, *, dry_run: bool
) -> Iterator[Reprocessed]:
    """All of the queue, piece by piece."""
    after: int | None = 0
    while after is not None:
        try:
            stretch = queue.reprocess(pattern, table, column, after, dry_run=dry_run)
        except StatementTimeout:
            raise SettingsError(
                "the pattern takes more than a minute for a few thousand texts",
                "Make it simpler, and narrow it down with --table and --column.",
            ) from None
        except Busy as locked:
            raise Busy(locked.cause, "Try again when that session is done with it.") from None
        yield stretch
        after = stretch.looked_to


def _agreed(stretches: Iterator[Reprocessed]) -> bool:
    """Show what matches, and ask. Raises SettingsError if there is nobody to ask."""
    matched = 0
    examples: list[dict[str, Any]] = []
    for stretch in stretches:
        matched += stretch.matched
        examples += stretch.examples[: EXAMPLES - len(examples)]
    if not matched:
        return False
    say(f"{counted(matched, 'record')} match{'es' * (matched == 1)}:")
    width = shutil.get_terminal_size((80, 24)).columns
    for example in examples:
        column = f"{example['table_name']}.{example['embedding_column']}"
        say("  " + _head(column, example["record_id"], width - 2))
        say(f"    {example['status']}: {_beginning(example['preview'], width - 16)}")
    if matched > len(examples):
        say(f"  and {matched - len(examples)} more")
    if not confirmed("Embed these again?"):
        raise SettingsError(
            "cancelled: nothing was requeued", "Add --yes to do it without being asked."
        )
    return True
