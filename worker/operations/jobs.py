"""Lists jobs, and makes them pending again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.errors import Busy, SettingsError, StatementTimeout
from worker.operations.session import select
from worker.queue import AdminQueue, ListedJob, Reprocessed

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
    return queue.list_jobs(statuses, select(queue, table, column).table, column, limit)


def requeue(
    queue: AdminQueue,
    *,
    status: Literal["failed"] | None = "failed",
    table: str | None = None,
    column: str | None = None,
    record: str | None = None,
    error_class: str | None = None,
) -> int:
    """Make failed jobs pending again; with a `status` of None, jobs of every status.

    The other arguments narrow them down. Returns how many.
    """
    return queue.requeue(
        status=status,
        table=select(queue, table, column).table,
        column=column,
        record=record,
        error_class=error_class,
    )


def find_matches(
    queue: AdminQueue, pattern: str, *, table: str | None = None, column: str | None = None
) -> Matches:
    """Find the records that `reprocess` would embed again, and change nothing."""
    matched = 0
    examples: list[dict[str, Any]] = []
    only_table = select(queue, table, column).table
    for stretch in _stretches(queue, pattern, only_table, column, dry_run=True):
        matched += stretch.matched
        examples += stretch.examples[: MOST_EXAMPLES - len(examples)]
    return Matches(matched, examples)


def reprocess(
    queue: AdminQueue, pattern: str, *, table: str | None = None, column: str | None = None
) -> int:
    """Make the jobs pending whose whole text or id matches a pattern. Returns how many.

    A pattern has * and ?, or begins with ~ and is a regular expression. Raises SettingsError if the
    pattern takes too long.
    """
    only_table = select(queue, table, column).table
    stretches = _stretches(queue, pattern, only_table, column, dry_run=False)
    return sum(stretch.matched for stretch in stretches)


def find_unsteady_jobs(queue: AdminQueue, table: str | None, column: str | None) -> list[ListedJob]:
    """Return the jobs whose texts changed between two reads, without a write to their rows."""
    jobs = queue.list_jobs(["pending", "failed"], table, column, MOST_JOBS)
    return [job for job in jobs if job.error_class == CHANGED]


def _stretches(
    queue: AdminQueue, pattern: str, table: str | None, column: str | None, *, dry_run: bool
) -> Iterator[Reprocessed]:
    """Go through the queue in batches."""
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
