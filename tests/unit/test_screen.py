"""What fits a screen, and what is asked of its figures."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.cli.conditions import FIGURES, Condition
from worker.cli.monitor import History, frame, plain_line, sparkline
from worker.cli.screen import Snapshot
from worker.errors import SettingsError
from worker.queue import Failure, ProviderTrouble, QueueProgress, TargetStatus, WorkerSeen

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def column(number: int) -> TargetStatus:
    return TargetStatus(
        f"a_schema.table_{number}",
        "embedding",
        None,
        True,
        "gone" if number == 1 else None,
        1000,
        True,
        300,
        5,
        600,
        50,
        45,
        62.83,
        12,
        True,
        NOW - timedelta(minutes=7),
    )


def at_work(number: int, seen: float = 1.0) -> WorkerSeen:
    return WorkerSeen(
        f"a-host-with-a-long-name:{number}:abcdef",
        "h",
        number,
        "working",
        "thin",
        "load 3.2 a core, above 1.5, and a good deal more to be said of it",
        154.2,
        100,
        1,
        NOW - timedelta(hours=1),
        NOW - timedelta(seconds=seen),
    )


def busy(columns: int = 20, workers: int = 10) -> Snapshot:
    return Snapshot(
        columns=[column(number) for number in range(columns)],
        failures=[Failure("t", "e", f"class_{n}", n, "why " * 50, NOW) for n in range(9)],
        providers=[ProviderTrouble("openai", "no key " * 30, "Give one.", NOW, NOW)],
        progress=QueueProgress(6100, 240, NOW - timedelta(minutes=7), 812.34, 95.0, 7.5),
        workers=[at_work(number) for number in range(workers)],
        at=NOW,
    )


EMPTY = Snapshot([], [], [], QueueProgress(0, 0, None, None, None, 0.0), [], NOW)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (80, 12), (60, 20)])
@pytest.mark.parametrize("snapshot", [busy(), busy(2, 1), EMPTY])
def test_the_frame_fits_the_terminal(snapshot: Snapshot, width: int, height: int) -> None:
    history = History()
    for _ in range(60):
        history.add(snapshot)
    lines = frame(snapshot, history, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert lines[-1].endswith("q quits")


def test_what_does_not_fit_is_counted() -> None:
    shown = "\n".join(frame(busy(), History(), 80, 24))
    assert "… and 16 more" in shown
    assert "a_schema.table_0" in shown
    assert "812.3 rows/s, 1 min 35 s elapsed, 8 s remaining" in shown


def test_a_sparkline_is_scaled_to_its_largest() -> None:
    assert sparkline(deque([0.0, 50.0, 100.0])) == "▁▅█"
    assert sparkline(deque([0.0, 0.0])) == "▁▁"
    assert sparkline(deque()) == ""


def test_the_rate_is_what_was_done_between_two_looks() -> None:
    history = History()
    before = busy(1, 2)
    history.add(before)
    later = replace(
        before,
        at=NOW + timedelta(seconds=2),
        # one did 30, one has ended, and one is new
        workers=[replace(at_work(0), completed=130), replace(at_work(7), completed=10, failed=0)],
    )
    history.add(later)
    assert list(history.rates) == [20.0]


def test_a_line_tells_it_all() -> None:
    assert plain_line(busy(1, 2)) == (
        "2026-11-27T12:00:00Z 6100 pending, 240 due, 50 failed,"
        " 812.3 rows/s, 1 min 35 s elapsed, 8 s remaining, 2 workers"
    )


@pytest.mark.parametrize(
    ("written", "holds"),
    [
        ("oldest_due > 5m", True),
        ("oldest_due>7m", False),
        ("oldest_due >= 420s", True),
        ("oldest_due < 1h", True),
        ("oldest_due > 1d", False),
        ("failed >= 1000", True),
        ("coverage < 62.9%", True),
        ("coverage <= 62", False),
        ("workers < 10", False),
        ("silent_workers > 0", False),
        ("stopped_providers > 0", True),
        ("due > 239", True),
        ("rows_per_second < 100", False),
    ],
)
def test_a_condition(written: str, holds: bool) -> None:
    assert Condition.of(written).holds(busy()) is holds


@pytest.mark.parametrize("figure", FIGURES)
def test_of_nothing_no_figure_is_above_zero_and_unknown_ones_hold_nothing(figure: str) -> None:
    assert not Condition.of(f"{figure} > 0").holds(EMPTY)
    known = figure not in ("coverage", "rows_per_second")
    assert Condition.of(f"{figure} <= 0").holds(EMPTY) is known


def test_the_silent_are_told_apart() -> None:
    snapshot = replace(busy(), workers=[at_work(1), at_work(2, seen=121.0)])
    assert Condition.of("workers <= 1").holds(snapshot)
    assert Condition.of("silent_workers >= 1").told(snapshot) == (
        "silent_workers is 1: silent_workers >= 1"
    )


@pytest.mark.parametrize(
    "written", ["", "due", "due >", "> 5", "due == 5", "due > 5 jobs", "due > -1", "queue > 5"]
)
def test_what_is_no_condition_is_refused(written: str) -> None:
    with pytest.raises(SettingsError, match="--fail-if") as refused:
        Condition.of(written)
    assert refused.value.hint
