"""How often a worker polls that no notification reaches."""

from __future__ import annotations

from itertools import pairwise

import pytest

from worker.engine.polling import poll_interval


@pytest.mark.parametrize(
    ("idle", "interval"),
    [(0, 0.1), (1, 0.1), (24, 0.1), (48, 0.2), (60, 0.25), (120, 0.5), (240, 1), (86_400, 1)],
)
def test_it_polls_often_soon_after_work_and_once_a_second_long_after_it(
    idle: float, interval: float
) -> None:
    assert poll_interval(idle, took=0, chance=0) == pytest.approx(interval)


def test_within_a_minute_of_work_a_job_waits_for_a_sixth_of_a_second_on_average_at_most() -> None:
    longest = max(poll_interval(idle, took=0, chance=1) for idle in range(61))
    assert longest / 2 < 1 / 6


def test_a_poll_never_comes_sooner_than_after_a_shorter_idle_time() -> None:
    intervals = [poll_interval(idle, took=0, chance=0.5) for idle in range(1000)]
    assert intervals == sorted(intervals)
    steps = [after / before for before, after in pairwise(intervals)]
    assert max(steps) < 1.05, "it becomes rarer without a jump"


@pytest.mark.parametrize("idle", [0, 100, 86_400])
def test_chance_makes_it_longer_by_a_quarter_at_most(idle: float) -> None:
    shortest, longest = (poll_interval(idle, took=0, chance=chance) for chance in (0, 1))
    assert longest == pytest.approx(1.25 * shortest)


def test_where_polls_are_slow_it_polls_rarely() -> None:
    assert poll_interval(0, took=0.03, chance=0) == pytest.approx(0.1)
    assert poll_interval(0, took=2, chance=0) == pytest.approx(4)
    assert poll_interval(86_400, took=2, chance=0) == pytest.approx(4)
