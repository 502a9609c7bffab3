"""Spans of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from worker.durations import parse_duration
from worker.errors import SettingsError


@pytest.mark.parametrize(
    ("given", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        (" 7 d ", timedelta(days=7)),
    ],
)
def test_a_number_and_a_unit_are_a_span(given: str, span: timedelta) -> None:
    assert parse_duration(given) == span


@pytest.mark.parametrize(
    "given", ["", "24", "h", "-1h", "0m", "1w", "1e3s", "1h30m", "٣h", "9999999d", "0.0000001s"]
)
def test_anything_else_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(SettingsError) as problem:
        parse_duration(given)
    assert given in problem.value.cause
    assert "24h" in str(problem.value.hint)
