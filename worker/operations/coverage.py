"""How long it takes until a column has its vectors."""

from __future__ import annotations

from dataclasses import dataclass

from worker.operations.status import StatusSnapshot
from worker.queue import TargetStatus


@dataclass(frozen=True, slots=True)
class Outlook:
    """How many jobs of a column are left, and for how many seconds.

    `seconds`: None if no rate is known. `is_least`: other columns have jobs as well, so it takes
    longer.
    """

    left: int
    seconds: float | None
    is_least: bool


def outlook(snapshot: StatusSnapshot, column: TargetStatus) -> Outlook:
    """Return the outlook of a column, at the present rate of all workers."""
    left = column.pending + column.processing
    rate = snapshot.progress.rows_per_second
    busy = sum(bool(each.pending + each.processing) for each in snapshot.columns)
    return Outlook(
        left=left,
        seconds=0 if not left else left / rate if rate else None,
        is_least=busy > 1,
    )
