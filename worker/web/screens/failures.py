"""Failures by class and column, and their requeue in batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError
from worker.operations.jobs import find_failures, requeue
from worker.queue import AdminQueue
from worker.web.screens.base import Action, Done, Look, Screen
from worker.web.tasks import Task

MOST_SHOWN = 200
ADDRESS = "/failures"
FILTER = ("target", "table", "column", "class")


def load(look: Look) -> Mapping[str, Any]:
    """Read the failures of all columns or of one, the most frequent first."""
    table, column = look.watched
    error_class = look.error_class
    found = find_failures(look.queue, table, column, error_class)
    return {
        "failures": found[:MOST_SHOWN],
        "left_out": len(found) - MOST_SHOWN,
        "failed": sum(failure.failed for failure in found),
        "targets": look.queue.targets(),
        "table": table,
        "column": column,
        "error_class": error_class,
        "chosen": look.given(FILTER),
    }


def _requeue(look: Look) -> Done:
    """Start the requeue of all failed jobs that match, in batches."""
    table, column = look.watched
    error_class, source = look.error_class, look.source
    found = find_failures(look.queue, table, column, error_class)
    expected = sum(failure.failed for failure in found)
    if not expected:
        raise SettingsError("no failed job matches", "They may have been requeued meanwhile.")

    def so_far(count: int) -> str:
        return f"{count:,} of {max(expected, count):,} jobs"

    def work(queue: AdminQueue, task: Task) -> None:
        requeue(
            queue,
            table=table,
            column=column,
            error_class=error_class,
            source=source,
            stop=task.stop,
            on_batch=lambda count: task.say(so_far(count)),
        )

    return look.start(f"Requeue of {_named(table, column, error_class)}", work, ADDRESS, so_far(0))


def _named(table: str | None, column: str | None, error_class: str | None) -> str:
    """Say which failed jobs are meant."""
    jobs = f"jobs failed as {error_class}" if error_class else "failed jobs"
    return jobs + (f" of {'.'.join(filter(None, (table, column)))}" if table else "")


FAILURES = Screen(
    name="failures",
    path=ADDRESS,
    title="Failures",
    label="Failures",
    load=load,
    actions=(Action("/failures/requeue", _requeue),),
)
