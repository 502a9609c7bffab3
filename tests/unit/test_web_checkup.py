"""What doctor finds is looked for now and then, by nobody who waits for it."""

from __future__ import annotations

from threading import Event

from tests.conftest import eventually
from worker.queue import Finding
from worker.web.checkup import INTERVAL, Checkup

GOOD = Finding("ok", "connection", "database", "it answers", None)
WARNING = Finding("warning", "isolation", "database", "an odd default", "Change it.")
PROBLEM = Finding("problem", "suspended", "docs.embedding", "a column is gone", None)
PAUSE = Finding("warning", "paused", "all workers", "since noon", None)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nobody_waits_and_one_examination_runs_at_a_time() -> None:
    may_end = Event()
    calls: list[None] = []

    def examine() -> list[Finding]:
        calls.append(None)
        assert may_end.wait(10)
        return [GOOD, WARNING, PAUSE, PROBLEM]

    checkup = Checkup(Clock())
    assert [checkup.latest(examine) for _ in range(3)] == [None] * 3
    may_end.set()
    eventually(lambda: checkup.latest(examine), 10)
    examined = checkup.latest(examine)
    assert examined
    assert examined.troubles == [PROBLEM, WARNING]
    assert len(calls) == 1


def test_it_is_looked_for_again_after_a_minute_also_after_a_defect() -> None:
    clock = Clock()
    checkup = Checkup(clock)
    calls: list[None] = []

    def examine() -> list[Finding]:
        calls.append(None)
        if len(calls) == 1:
            raise RuntimeError("a text")
        return [GOOD]

    def causes() -> list[str]:
        examined = checkup.latest(examine)
        return [finding.cause for finding in examined.findings] if examined else []

    eventually(lambda: causes() == ["a defect: RuntimeError"], 10)
    clock.now += INTERVAL
    eventually(lambda: causes() == ["it answers"], 10)
    assert len(calls) == 2
