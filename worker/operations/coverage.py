"""How long it takes until a column has its vectors, or as many as its goal says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.operations.status import StatusSnapshot
from worker.queue import TargetStatus


@dataclass(frozen=True, slots=True)
class Outlook:
    """How many jobs of a column are left, up to its goal if it has one, and for how many seconds.

    `seconds`: None if no rate is known. `is_least`: other columns have jobs as well, so it takes
    longer. `lacking`: how many rows of the goal are not among these jobs, because they failed or
    are not in the queue.
    """

    left: int
    seconds: float | None
    is_least: bool
    lacking: int


def outlook(snapshot: StatusSnapshot, column: TargetStatus) -> Outlook:
    """Return the outlook of a column, at the present rate of all workers."""
    queued = column.pending + column.processing
    wanted = _wanted(column)
    left = queued if wanted is None else min(queued, wanted)
    rate = snapshot.progress.rows_per_second
    busy = sum(bool(each.pending + each.processing) for each in snapshot.columns)
    return Outlook(
        left=left,
        seconds=0 if not left else left / rate if rate else None,
        is_least=busy > 1,
        lacking=0 if wanted is None else max(wanted - queued, 0),
    )


def _wanted(column: TargetStatus) -> int | None:
    """How many rows need a vector until the goal is reached; None without a goal."""
    if column.coverage_goal is None or column.rows is None:
        return None
    rows = max(column.rows - column.skipped, 0)
    return max(math.ceil(rows * column.coverage_goal / 100) - column.completed, 0)
