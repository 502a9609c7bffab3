"""The measures of a ranking, against values computed by hand from their definitions."""

from __future__ import annotations

from math import log2

import pytest

from worker.evaluation.metrics import mean_of, ndcg, recall, reciprocal_rank

# The example of Wikipedia's page on discounted cumulative gain: six results of eight documents.
GRADES = {"D1": 3, "D2": 2, "D3": 3, "D5": 1, "D6": 2, "D7": 3, "D8": 2}
RANKING = ["D1", "D2", "D3", "D4", "D5", "D6"]


def test_ndcg_discounts_the_grade_by_the_logarithm_of_the_rank() -> None:
    gained = 3 / log2(2) + 2 / log2(3) + 3 / log2(4) + 1 / log2(6) + 2 / log2(7)
    best = 3 / log2(2) + 3 / log2(3) + 3 / log2(4) + 2 / log2(5) + 2 / log2(6) + 2 / log2(7)
    assert (round(gained, 3), round(best, 3)) == (6.861, 8.740)
    assert (
        ndcg(RANKING, GRADES, 6) == pytest.approx(gained / best) == pytest.approx(0.785, abs=5e-4)
    )


def test_ndcg_takes_the_grade_itself_as_the_gain() -> None:
    assert ndcg(["b", "a"], {"a": 3, "b": 1}, 2) == pytest.approx(
        (1 + 3 / log2(3)) / (3 + 1 / log2(3))
    )


def test_the_best_order_has_an_ndcg_of_1_and_no_relevant_record_one_of_0() -> None:
    assert ndcg(["a", "b", "x"], {"a": 2, "b": 1}, 10) == 1
    assert ndcg(["x", "y"], {"a": 2, "b": 1}, 10) == 0
    assert ndcg([], {"a": 2}, 10) == 0


def test_ndcg_compares_with_the_best_order_of_as_many_records() -> None:
    many = {str(record): 1 for record in range(20)}
    assert ndcg(list(many), many, 10) == 1


def test_what_comes_after_k_does_not_count() -> None:
    ranking = ["x", "y", "a"]
    assert ndcg(ranking, {"a": 1}, 2) == 0
    assert recall(ranking, {"a": 1}, 2) == 0
    assert reciprocal_rank(ranking, {"a": 1}, 2) == 0


def test_recall_is_the_share_of_all_relevant_records() -> None:
    assert recall(["a", "x", "b"], {"a": 1, "b": 2, "c": 1, "d": 3}, 3) == 0.5
    assert recall(["a"], dict.fromkeys("abcd", 1), 1) == 0.25


def test_the_reciprocal_rank_is_that_of_the_first_relevant_record() -> None:
    assert reciprocal_rank(["x", "y", "a", "b"], {"a": 1, "b": 3}, 10) == pytest.approx(1 / 3)
    assert reciprocal_rank(["b", "a"], {"a": 1, "b": 3}, 10) == 1
    assert reciprocal_rank(["x"], {"a": 1}, 10) == 0


def test_a_mean_has_its_interval_and_the_same_one_each_time() -> None:
    values = [0.0, 1.0] * 50
    found = mean_of(values)
    assert found == mean_of(values)
    assert found.mean == 0.5
    # by the normal distribution: 0.5 ± 1.96 * 0.5 / sqrt(100)
    assert found.low == pytest.approx(0.402, abs=0.02)
    assert found.high == pytest.approx(0.598, abs=0.02)


def test_a_difference_that_all_queries_share_is_no_noise_and_one_of_chance_is() -> None:
    assert mean_of([0.1, 0.2, 0.1, 0.3] * 10).low > 0
    balanced = mean_of([0.5, -0.5] * 20)
    assert balanced.low < 0 < balanced.high


def test_a_single_query_has_no_spread() -> None:
    assert mean_of([0.25]).low == mean_of([0.25]).high == 0.25
