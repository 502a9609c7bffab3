"""Hints on what to do next after a run."""

from __future__ import annotations

from collections.abc import Iterator

from worker.cli.render.screen import missing_rows
from worker.cli.render.text import NOTHING_WATCHED, name_of
from worker.errors import WorkerError
from worker.figures import counted
from worker.operations.jobs import find_unsteady_jobs
from worker.operations.processing import RunResult
from worker.queue import AdminQueue, Scope


def advice_on(result: RunResult, queue: AdminQueue) -> list[str]:
    """Return the hints to print after a run; none if the database does not answer."""
    stats, scope = result.stats, result.scope
    try:
        if result.errors or result.ended or result.was_interrupted:
            return []  # the summary already says why
        if stats.released or stats.failed:
            return list(_on_unsteady_sources(queue, scope))
        if not stats.taken:
            return list(_on_nothing_due(queue, scope))
    except WorkerError:  # the run itself is over, and its summary is what counts
        pass
    return []


def _on_nothing_due(queue: AdminQueue, scope: Scope) -> Iterator[str]:
    """Explain why a run had nothing to do."""
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
    """Warn about columns whose texts changed between two reads, without a write to their rows."""
    jobs = find_unsteady_jobs(queue, scope.table, scope.column)
    for column in sorted({name_of(job) for job in jobs}):
        yield f"warning: texts of {column} changed while they were embedded, without a write"
        yield (
            "hint: Its source must read nothing but the row: no clock_timestamp(), no random(), no"
            " settings. Run `worker watch` again with such a source."
        )
