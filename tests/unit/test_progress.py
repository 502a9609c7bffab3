"""The arithmetic of the counts of a run."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from worker.embedders.base import cost_of
from worker.engine.progress import RunStats
from worker.queue import SettledStatus


def test_processed_are_those_that_came_to_an_end() -> None:
    stats = RunStats(
        completed=1, unchanged=2, skipped=4, dropped=8, failed=16, stale=32, released=64
    )
    assert stats.processed == 1 + 2 + 4 + 8 + 16
    assert stats.taken == stats.processed + 32 + 64


def test_a_run_that_did_nothing_succeeded() -> None:
    stats = RunStats()
    assert (stats.processed, stats.taken, stats.success_rate) == (0, 0, 100.0)
    assert stats.tokens is None


@pytest.mark.parametrize(
    ("completed", "failed", "rate"),
    [(3, 1, 75.0), (0, 5, 0.0), (5, 0, 100.0), (2, 1, 66.6), (999_999, 1, 99.9)],
)
def test_the_success_rate_is_the_share_that_did_not_fail(
    completed: int, failed: int, rate: float
) -> None:
    assert RunStats(completed=completed, failed=failed).success_rate == pytest.approx(rate)


def test_what_was_thrown_away_or_given_back_does_not_count_against_success() -> None:
    assert RunStats(completed=1, stale=9, released=9).success_rate == 100.0


def test_each_way_in_which_a_claim_settles_a_job_has_its_count() -> None:
    settled: Counter[SettledStatus] = Counter(
        {"completed": 1, "skipped": 2, "dropped": 4, "failed": 8, "pending": 16}
    )
    stats = RunStats()
    stats.add_settled(settled)
    stats.add_settled(settled)
    assert (stats.unchanged, stats.skipped, stats.dropped) == (2, 4, 8)
    assert (stats.failed, stats.released, stats.completed) == (16, 32, 0)
    assert stats.taken == 2 * settled.total()


def test_tokens_are_added_up_where_they_are_known() -> None:
    stats = RunStats()
    stats.models["a:silent"].add(1, None, None)
    before = stats.tokens
    for tokens in (0, 5, None, 7):
        stats.models["a:one"].add(1, tokens, 0.0)
    assert (before, stats.tokens, stats.requests) == (None, 12, 5)


@pytest.mark.parametrize(
    ("asked", "cost"),
    [
        ([], 0.0),
        ([("a:one", 1_000_000, 0.02), ("a:one", 500_000, 0.02), ("a:two", 100_000, 0.13)], 0.043),
        ([("a:free", None, 0.0), ("a:one", 1_000_000, 0.02)], 0.02),
        ([("a:one", 1_000_000, 0.02), ("a:unknown", 5, None)], None),
        ([("a:one", 1_000_000, 0.02), ("a:one", None, 0.02)], None),
    ],
)
def test_what_it_cost_is_known_if_all_prices_and_tokens_are(
    asked: list[tuple[str, int | None, float | None]], cost: float | None
) -> None:
    stats = RunStats()
    for model, tokens, price in asked:
        stats.models[model].add(1, tokens, cost_of(tokens, price))
    assert stats.cost == pytest.approx(cost)


def test_the_rate_counts_from_the_beginning_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 104.0)
    stats = RunStats(completed=6, failed=2, stale=5, started=100.0)
    assert stats.elapsed == 4.0
    assert stats.rows_per_second == 2.0


def test_the_rate_is_a_number_from_the_first_moment_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert RunStats(started=100.0).rows_per_second == 0.0
    assert RunStats(completed=1, started=100.0).rows_per_second > 0
