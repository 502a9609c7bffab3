"""How long things took, in buckets."""

from __future__ import annotations

import pytest

from worker.engine.histogram import BUCKETS, Histogram, find_bucket


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (-1.0, 0),
        (0.001, 0),
        (0.0011, 1),
        (0.01, 4),
        (0.0101, 5),
        (1.0, 12),
        (60.0, 20),
        (3600.0, 27),
        (1e9, BUCKETS - 1),
    ],
)
def test_a_length_falls_into_the_bucket_that_ends_above_it(seconds: float, bucket: int) -> None:
    assert find_bucket(seconds) == bucket


def test_every_bucket_but_the_last_holds_its_upper_bound() -> None:
    for bucket in range(BUCKETS):
        bound = 10 ** (bucket / 4) / 1000
        assert find_bucket(bound * 0.999) == bucket
        assert find_bucket(bound * 1.001) == min(bucket + 1, BUCKETS - 1)


def test_histograms_add_up_and_tell_no_empty_end() -> None:
    one, other = Histogram(), Histogram()
    assert one.trimmed == []
    one.count(0.0)
    one.count(0.01)
    other.count(0.0)
    one.add(other)
    assert one.trimmed == [2, 0, 0, 0, 1]
    assert other.trimmed == [1]
