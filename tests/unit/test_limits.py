"""What providers say of their rate limits, in headers and in words."""

from __future__ import annotations

import pytest

from worker.embedders.base import RateLimitStatus
from worker.embedders.limits import allowances, seconds_to_wait


def headers(**of_requests: str) -> dict[str, str]:
    return {f"x-ratelimit-{name}-requests": value for name, value in of_requests.items()}


def test_limits_of_requests_and_of_tokens_are_read() -> None:
    tokens = {
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "999000",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert allowances(headers(limit="3000", remaining="2999", reset="20ms") | tokens) == {
        "requests": RateLimitStatus(limit=3000, remaining=2999, reset=0.02),
        "tokens": RateLimitStatus(limit=1_000_000, remaining=999_000, reset=360),
    }


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("7.66s", 7.66),
        ("0h2m3s", 123),
        ("1m20.5s", 80.5),
        ("120ms", 0.12),
        ("60", 60),
        ("", 0),
        ("soon", 0),
        ("1s!", 0),
        ("-1s", 0),
    ],
)
def test_a_reset_is_read_as_go_writes_durations(given: str, seconds: float) -> None:
    found = allowances(headers(limit="3000", remaining="1", reset=given))
    assert found["requests"].reset == pytest.approx(seconds)


@pytest.mark.parametrize(
    "illegible",
    [
        {},
        {"limit": "3000"},
        {"remaining": "2999"},
        {"limit": "0", "remaining": "0"},
        {"limit": "many", "remaining": "2999"},
        {"limit": "3000", "remaining": "nan"},
        {"limit": "3000", "remaining": "-1"},
        {"limit": "1e-300", "remaining": "0"},
        {"limit": "1e300", "remaining": "0"},
        {"limit": "9" * 60_000, "remaining": "0"},
        {"limit": "3000", "remaining": "1e999"},
    ],
)
def test_what_is_illegible_says_nothing(illegible: dict[str, str]) -> None:
    assert allowances(headers(**illegible)) == {}


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached. Please try again in 1.8s.", 1.8),
        ("Rate limit reached. Please try again in 20ms. Visit https://…", 0.02),
        ("Rate limit reached. Please try again in 1m30s.", 90),
        ("Please retry after 26 seconds. Please go to", 26),
        ("Please retry after 1 second.", 1),
        ("Please try again later.", None),
        ("", None),
    ],
)
def test_a_wait_is_read_out_of_words(words: str, seconds: float | None) -> None:
    assert seconds_to_wait({}, words) == seconds


def test_headers_are_believed_before_words_and_words_before_resets() -> None:
    used_up = headers(limit="3000", remaining="0", reset="9s")
    words = "try again in 3s"
    assert seconds_to_wait({"retry-after-ms": "1500", "retry-after": "2"} | used_up, words) == 1.5
    assert seconds_to_wait({"retry-after": "2"} | used_up, words) == 2
    assert seconds_to_wait(used_up, words) == 3
    assert seconds_to_wait(used_up) == 9
    assert seconds_to_wait(headers(limit="3000", remaining="1", reset="9s")) is None


@pytest.mark.parametrize(
    "given",
    [
        *({"retry-after": wait} for wait in ("601", "999999999999", "1e300")),
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"},
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"},
        {"retry-after-ms": "1e300"},
        *(headers(limit="1", remaining="0", reset=reset) for reset in ("1d", "9" * 300 + "d")),
        headers(limit="1", remaining="0", reset="9" * 60_000 + "d"),
    ],
)
def test_a_wait_is_ten_minutes_at_most(given: dict[str, str]) -> None:
    assert seconds_to_wait(given) == 600


def test_a_wait_in_words_is_ten_minutes_at_most() -> None:
    assert seconds_to_wait({}, "Please retry after 86400 seconds.") == 600
    assert seconds_to_wait({}, f"Please try again in {'9' * 5000}d.") == 600


@pytest.mark.parametrize(
    "given",
    [
        *("nan", "inf", "1e999", "-1", "9" * 5000, "soon", "Fri", "Fri, 31 Dec"),
        "Fri, 31 Dec 99999 23:59:59 GMT",
        f"Fri, 31 Dec {'9' * 5000} 23:59:59 GMT",
        f"Fri, 31 Dec 2026 23:59:59 +{'9' * 400}",
        "Fri, 31 Dec 9999 23:59:59 +9999",
    ],
)
def test_a_wait_that_is_illegible_is_none(given: str) -> None:
    assert seconds_to_wait({"retry-after": given}) is None
    assert seconds_to_wait({"retry-after-ms": given}) is None


def test_no_more_is_left_than_is_allowed() -> None:
    found = allowances(headers(limit="3000", remaining="1e300"))
    assert found == {"requests": RateLimitStatus(limit=3000, remaining=3000, reset=0)}
