"""Jobs and records one by one, each with the beginning of its text."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

from rich.cells import cell_len

from worker.cli.console import out, say
from worker.cli.render.text import ago, name_of, one_line
from worker.durations import format_duration
from worker.figures import counted
from worker.operations.jobs import Matches
from worker.queue import ListedJob


def print_job(job: ListedJob) -> None:
    """Print what a job waits for or why it failed, and how its text begins."""
    width = shutil.get_terminal_size((80, 24)).columns
    attempts = counted(job.attempts, "attempt")
    out(_head(name_of(job), job.record_id, width))
    out("    " + one_line(f"{job.status}, {attempts}, {_since(job)}", width - 4))
    if job.error_message:
        out("    " + one_line(f"{job.error_class or 'reason'}: {job.error_message}", width - 4))
    out("    " + _beginning(job.preview, width - 4))


def print_matches(found: Matches) -> None:
    """Show how many records match a pattern, and some of them."""
    say(f"{counted(found.matched, 'record')} match{'es' * (found.matched == 1)}:")
    width = shutil.get_terminal_size((80, 24)).columns
    for example in found.examples:
        column = f"{example['table_name']}.{example['embedding_column']}"
        say("  " + _head(column, example["record_id"], width - 2))
        say(f"    {example['status']}: {_beginning(example['preview'], width - 16)}")
    if found.matched > len(found.examples):
        say(f"  and {found.matched - len(found.examples)} more")


def _head(column: str, record: str, width: int) -> str:
    column = one_line(column, max(width - 40, 10))  # which leaves room for a uuid
    return f"{column}  {one_line(record, max(width - cell_len(column) - 2, 10))}"


def _since(job: ListedJob) -> str:
    """Describe when the job failed, when its lease ends, or when it is due."""
    now = datetime.now(UTC)
    if job.status == "failed":
        return ago(job.updated_at)
    if job.lease_expires_at is not None:
        left = (job.lease_expires_at - now).total_seconds()
        ending = f"ends in {format_duration(left)}" if left > 0 else "has expired"
        return f"lease {ending}, {job.worker}"
    if job.available_at <= now:
        return f"due for {format_duration((now - job.available_at).total_seconds())}"
    return f"due in {format_duration((job.available_at - now).total_seconds())}"


def _beginning(preview: str | None, width: int) -> str:
    return "(no readable text)" if preview is None else f'"{one_line(preview, width - 2)}"'
