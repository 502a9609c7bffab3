"""The lines of a run that has no terminal."""

from __future__ import annotations

import time

import pytest

from worker.cli.render.progress import PlainProgress
from worker.durations import format_duration
from worker.engine.progress import RunStats


def test_a_line_every_few_percent(capsys: pytest.CaptureFixture[str]) -> None:
    stats = RunStats(started=time.monotonic() - 20)
    lines = PlainProgress(total=1000, interval=5)
    for _ in range(100):
        stats.completed += 10
        lines.update(stats)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == [
        f"{percent}%: {10 * percent} of 1000" for percent in range(5, 101, 5)
    ]
    assert told[0] == "5%: 50 of 1000, 2 rows/s, 20 s elapsed, 6 min 20 s remaining"
    assert told[-1].endswith(", 0 s remaining")


def test_jobs_that_go_back_are_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    stats = RunStats(started=time.monotonic() - 20, completed=50, released=900, stale=50)
    PlainProgress(total=1000, interval=5).update(stats)
    assert capsys.readouterr().err.startswith("5%: 50 of 1000, ")


def test_what_remains_is_that_of_all_workers_where_it_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stats = RunStats(started=time.monotonic() - 20, completed=50)
    PlainProgress(total=1000, interval=5, eta=lambda: 45.0).update(stats)
    assert capsys.readouterr().err.endswith(", 45 s remaining\n")


def test_a_run_that_is_over_at_once_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress(total=10, interval=5).update(RunStats(completed=10))
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_what_remains_before_something_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.render.progress.LINE_AFTER", 0.0)
    stats = RunStats(started=time.monotonic() - 100)
    PlainProgress(total=10, interval=5).update(stats)
    assert capsys.readouterr().err == (
        "0%: 0 of 10, 0 rows/s, 1 min 40 s elapsed, unknown remaining\n"
    )


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (725, "12 min 5 s"),
        (12_000, "3 h 20 min"),
        (3 * 86_400 + 5, "3 d"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_span_is_written_in_its_two_largest_units(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written
