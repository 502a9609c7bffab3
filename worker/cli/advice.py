"""What to do next, where a run or a look at the queue finds nothing going on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from worker.cli.console import NOTHING_WATCHED, counted, name_of
from worker.cli.summary import ended_by
from worker.engine.pipeline import Pipeline
from worker.errors import WorkerError
from worker.queue import AdminQueue, Scope, TargetStatus

ESTIMATES_ARE_OFF_BY = 0.1
CHANGED = "changed"  # the class of an error
MOST_JOBS = 1000


def missing_rows(columns: Iterable[TargetStatus]) -> Iterator[str]:
    """A line for each column with rows that nobody has enqueued."""
    for column in columns:
        if missing := _missing(column):
            rows = counted(missing, "row") if column.rows_exact else f"about {missing} rows"
            yield f"{name_of(column)} has {rows} outside the queue; run `worker backfill`"


def _missing(column: TargetStatus) -> int:
    if column.rows is None or column.problem:
        return 0
    jobs = column.pending + column.processing + column.completed + column.failed + column.skipped
    missing = column.rows - jobs
    tolerated = 0 if column.rows_exact else ESTIMATES_ARE_OFF_BY * column.rows
    return missing if missing > tolerated else 0


def advice_on(pipeline: Pipeline, queue: AdminQueue) -> list[str]:
    """What to say after a run beside its numbers. Nothing if the database does not answer."""
    stats, scope = pipeline.stats, pipeline.scope
    try:
        if pipeline.errors or ended_by(pipeline) or pipeline.stop.is_set():
            return []  # then that is what is said
        if stats.released or stats.failed:
            return list(_on_unsteady_sources(queue, scope))
        if not stats.taken:
            return list(_on_nothing_due(queue, scope))
    except WorkerError:  # the run itself is over, and its summary is what counts
        pass
    return []


def _on_nothing_due(queue: AdminQueue, scope: Scope) -> Iterator[str]:
    """Why a run had nothing to do, and what would give it something."""
    columns = [
        column
        for column in queue.status()
        if scope.table in (None, column.table_name)
        and scope.column in (None, column.embedding_column)
    ]
    yield "Nothing is due." if columns else NOTHING_WATCHED
    yield from (f"hint: {line}" for line in missing_rows(columns))
    if later := sum(column.pending for column in columns):
        yield f"hint: {counted(later, 'job')} will be due later; see `worker list --pending`"
    if claimed := sum(column.processing for column in columns):
        yield f"hint: other workers have claimed {counted(claimed, 'job')}; see `worker status`"
    if failed := sum(column.failed for column in columns):
        yield f"hint: {counted(failed, 'job')} failed; see `worker list --failed`"


def _on_unsteady_sources(queue: AdminQueue, scope: Scope) -> Iterator[str]:
    """The columns whose texts differed at a second reading, though nobody wrote to their rows."""
    jobs = queue.list_jobs(["pending", "failed"], scope.table, scope.column, MOST_JOBS)
    for column in sorted({name_of(job) for job in jobs if job.error_class == CHANGED}):
        yield f"warning: texts of {column} changed while they were embedded, without a write"
        yield (
            "hint: Its source must read nothing but the row: no clock_timestamp(), no random(), no"
            " settings. Run `worker watch` again with such a source."
        )
