"""Lists jobs, and makes them pending again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Any

from worker.errors import SettingsError, StatementTimeout
from worker.operations.portions import portions
from worker.operations.session import select
from worker.queue import (
    AdminQueue,
    CallSource,
    Failure,
    JobStatus,
    ListedJob,
    Reprocessed,
    Requeued,
)

MOST_EXAMPLES = 3
CHANGED = "changed"  # the error class of a text that changed between two reads
MOST_JOBS = 1000


@dataclass(frozen=True, slots=True)
class Matches:
    """How many records match a pattern, and up to three of them."""

    matched: int
    examples: list[dict[str, Any]]


def list_jobs(
    queue: AdminQueue,
    statuses: Sequence[str],
    *,
    table: str | None = None,
    column: str | None = None,
    limit: int = 20,
) -> list[ListedJob]:
    """List jobs in these states, each with the beginning of its text."""
    selection = select(queue, table, column)
    return queue.list_jobs(statuses, selection.table, selection.column, limit)


def requeue(
    queue: AdminQueue,
    *,
    status: JobStatus | None = "failed",
    table: str | None = None,
    column: str | None = None,
    record: str | None = None,
    error_class: str | None = None,
    ids: Sequence[int] | None = None,
    source: CallSource = "api",
    stop: Event | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> int:
    """Make failed jobs pending again, or those of another status; None: jobs of every status.

    The other arguments narrow them down; `ids` are those of a selection. Returns how many. A job
    that fails again meanwhile is not requeued twice. Set `stop` from another thread to end after
    the current batch. `on_batch` is called after every batch, with how many were requeued so far.
    """
    selection = select(queue, table, column)
    began: datetime | None = None

    def requeue_batch(after: int) -> Requeued:
        nonlocal began
        batch = queue.requeue(
            status=status,
            table=selection.table,
            column=selection.column,
            record=record,
            error_class=error_class,
            ids=ids,
            after=after,
            failed_before=began,
            source=source,
        )
        began = began or batch.called_at
        return batch

    requeued = 0
    for batch in portions(requeue_batch, stop):
        requeued += batch.requeued
        on_batch(requeued)
    return requeued


def find_failures(
    queue: AdminQueue,
    table: str | None = None,
    column: str | None = None,
    error_class: str | None = None,
) -> list[Failure]:
    """Return the failures of the jobs that `requeue` would take, the most frequent first."""
    return [
        failure
        for failure in queue.failures()
        if table in (None, failure.table_name)
        and column in (None, failure.embedding_column)
        and error_class in (None, failure.error_class)
    ]


def find_matches(
    queue: AdminQueue,
    pattern: str,
    *,
    table: str | None = None,
    column: str | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Matches:
    """Find the records that `reprocess` would embed again, and change nothing.

    `on_batch` is called after every batch, with how many match so far.
    """
    matched = 0
    examples: list[dict[str, Any]] = []
    selection = select(queue, table, column)
    found = _matching(
        lambda after: queue.reprocess(
            pattern, selection.table, selection.column, after, dry_run=True
        )
    )
    for batch in found:
        matched += batch.matched
        examples += batch.examples[: MOST_EXAMPLES - len(examples)]
        on_batch(matched)
    return Matches(matched, examples)


def reprocess(
    queue: AdminQueue,
    pattern: str,
    *,
    table: str | None = None,
    column: str | None = None,
    source: CallSource = "api",
    stop: Event | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> int:
    """Make the jobs pending whose whole text or id matches a pattern. Returns how many.

    A pattern has * and ?, or begins with ~ and is a regular expression. `stop` and `on_batch` are
    as for `requeue`. Raises SettingsError if the pattern takes too long.
    """
    requeued = 0
    selection = select(queue, table, column)
    matching = _matching(
        lambda after: queue.reprocess(
            pattern, selection.table, selection.column, after, dry_run=False, source=source
        ),
        stop,
    )
    for batch in matching:
        requeued += batch.matched
        on_batch(requeued)
    return requeued


def find_unsteady_jobs(queue: AdminQueue, table: str | None, column: str | None) -> list[ListedJob]:
    """Return the jobs whose texts changed between two reads, without a write to their rows."""
    jobs = queue.list_jobs(["pending", "failed"], table, column, MOST_JOBS)
    return [job for job in jobs if job.error_class == CHANGED]


def _matching(
    call: Callable[[int], Reprocessed], stop: Event | None = None
) -> Iterator[Reprocessed]:
    """Go through the queue for what matches."""
    try:
        yield from portions(call, stop)
    except StatementTimeout:
        raise SettingsError(
            "the pattern takes more than five seconds for a single text",
            "Make it simpler, and narrow it down with --table and --column.",
        ) from None
