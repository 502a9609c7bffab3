"""How long the main loop of a run may take for a turn."""

from __future__ import annotations

import pytest

from worker.engine.progress import RunStats
from worker.observers import health
from worker.observers.health import LEAST, Health


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(health, "time", clock)
    return clock


@pytest.mark.parametrize(("lease", "longest"), [(2.0, LEAST), (LEAST, LEAST), (900.0, 900.0)])
def test_a_turn_may_take_a_lease_and_never_less_than_five_minutes(
    clock: Clock, lease: float, longest: float
) -> None:
    assert LEAST == 300
    run = Health(lease)
    clock.now += longest
    assert run.problem is None
    clock.now += 1
    assert run.problem == f"the main loop has not turned for {longest + 1:.0f} s"


@pytest.mark.parametrize("turn", [Health.pulse, lambda run: run.update(RunStats())])
def test_it_is_well_again_when_the_loop_turns(clock: Clock, turn: object) -> None:
    assert callable(turn)
    run = Health(300)
    clock.now += 1000
    assert run.problem
    turn(run)
    assert run.problem is None


def test_an_event_is_no_turn(clock: Clock) -> None:
    run = Health(300)
    clock.now += 1000
    run.event("traces_lost", cause="gone")
    assert run.problem
