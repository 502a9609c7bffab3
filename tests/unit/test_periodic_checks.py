"""What is told by the minute, and of failures."""

from __future__ import annotations

from typing import Any

import pytest

from worker.engine.progress import RunStats
from worker.errors import Unreachable
from worker.observers.periodic_checks import EveryMinute, Failures


class Told(list[tuple[str, dict[str, object]]]):
    def __call__(self, name: str, **fields: object) -> None:
        self.append((name, fields))


class OutOfReach:
    def count_pending(self) -> Any:
        raise Unreachable("gone")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("worker.observers.periodic_checks.time.monotonic", lambda: now[0])
    return now


def test_a_minute_in_which_something_was_done_is_told_of(clock: list[float]) -> None:
    told = Told()
    every_minute = EveryMinute(OutOfReach(), told)  # type: ignore[arg-type]
    stats = RunStats(completed=30, failed=2)
    every_minute.update(stats)
    for clock[0] in (1000.0, 1030.0, 1059.9):
        every_minute.pulse()
    assert not told
    clock[0] = 1060.0
    every_minute.pulse()
    [(name, fields)] = told
    assert name == "minute_passed"
    assert (fields["completed"], fields["failed"], fields["rows_per_second"]) == (30, 2, 0.5)
    assert fields["pending"] is None, "nobody knows"
    assert isinstance(fields["rss_mb"], float)

    clock[0] = 1120.0
    every_minute.pulse()
    assert len(told) == 1, "in the second nothing was done"
    stats.completed += 60
    clock[0] = 1180.0
    every_minute.pulse()
    assert (told[1][1]["completed"], told[1][1]["rows_per_second"]) == (60, 1.0)


def test_failures_are_told_of_each_time_as_many_have_come(clock: list[float]) -> None:
    told = Told()
    failures = Failures(10, told)
    for failed in (0, 9, 12, 19, 35, 35):
        failures.update(RunStats(failed=failed))
    assert [fields for _, fields in told] == [
        {"failed": 12, "threshold": 10},
        {"failed": 35, "threshold": 10},
    ]
