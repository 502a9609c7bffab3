"""Many workers share the rate limit of a provider: their own code, in virtual time."""

from __future__ import annotations

import pytest

from benchmarks.allowance import simulate
from worker.embedders.base import Concurrency, RateLimitStatus
from worker.engine.limiter import Limiter


def wait_after(*remaining: int) -> float:
    """The seconds until the next turn, after answers that report that so much of 6000 is left."""
    now = 100.0
    limiter = Limiter(Concurrency(4, 32), clock=lambda: now)
    for left in remaining:
        now += 1.0
        limiter.begin(1)
        limiter.end(None, now - 0.2, 1, False)
        limiter.apply({"requests": RateLimitStatus(6000, left, 0.0)}, 1, 1)
    limiter._seconds_to_wait(now)
    limiter.begin(1)
    return limiter._seconds_to_wait(now)


def test_a_hundred_workers_share_a_limit_that_answers_report() -> None:
    shares = simulate(100, 6000, warm_up=60.0, seconds=60.0)
    assert shares.used >= 0.95
    assert shares.refused <= 0.01
    assert shares.least >= 0.15


def test_they_share_one_that_is_not_reported_after_some_minutes() -> None:
    shares = simulate(100, 6000, silent=True, warm_up=300.0, seconds=300.0)
    assert shares.used >= 0.95
    assert shares.refused <= 0.01
    assert shares.least >= 0.2


@pytest.mark.parametrize("rpm", [6000, 600])
def test_they_share_one_that_is_not_reported_if_each_has_its_part_as_embedding_rpm(
    rpm: int,
) -> None:
    shares = simulate(100, rpm, silent=True, rpm_of_each=rpm // 100, warm_up=120.0, seconds=60.0)
    assert shares.used >= 0.95
    assert shares.refused <= 0.01
    assert shares.least >= 0.8  # of 18 answers, one more or less


def test_a_worker_slows_down_while_little_is_left_before_it_is_refused() -> None:
    assert wait_after(3000, 2000, 1000) < 0.1
    assert wait_after(3000, 2000, 100) > 0.5


def test_a_figure_that_never_changes_slows_nobody_down() -> None:
    assert wait_after(0, 0, 0, 0, 0, 0) < 0.1
