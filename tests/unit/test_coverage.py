"""How long it takes until a column has its vectors, or as many as its goal says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_screen import COLUMN, LOOK
from worker.operations.coverage import Outlook, outlook
from worker.queue import QueueProgress, TargetStatus


def outlook_of(column: TargetStatus, rate: float | None = 10, *others: TargetStatus) -> Outlook:
    progress = QueueProgress(0, rate, None, None)
    return outlook(replace(LOOK, progress=progress, columns=[column, *others]), column)


HALF = replace(COLUMN, rows=100, completed=50, pending=40, processing=5, failed=5)


def test_the_jobs_that_are_left_take_their_time() -> None:
    assert outlook_of(HALF) == Outlook(left=45, seconds=4.5, is_least=False, lacking=0)
    assert outlook_of(HALF, None).seconds is None
    assert outlook_of(COLUMN, None) == Outlook(left=0, seconds=0, is_least=False, lacking=0)


def test_it_takes_longer_beside_other_columns() -> None:
    assert outlook_of(HALF, 10, replace(COLUMN, pending=1)).is_least
    assert not outlook_of(HALF, 10, COLUMN).is_least


@pytest.mark.parametrize(
    ("goal", "figures", "left", "lacking"),
    [
        (80, {}, 30, 0),
        (50, {}, 0, 0),
        (95, {}, 45, 0),
        (99.5, {}, 45, 5),  # of the rows that failed, four are needed, and a part of one
        (80, {"skipped": 50, "rows": 150}, 30, 0),
        (80, {"rows": None}, 45, 0),
        (80, {"rows": 0}, 0, 0),
    ],
)
def test_a_goal_needs_only_some_of_the_jobs_or_more_than_there_are(
    goal: float, figures: dict[str, Any], left: int, lacking: int
) -> None:
    found = outlook_of(replace(HALF, coverage_goal=goal, **figures))
    assert (found.left, found.lacking) == (left, lacking)
