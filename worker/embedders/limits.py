"""Reads rate limits from the headers of an answer: how much is left, and how long to wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from worker.embedders.base import Measure, RateLimitStatus

MEASURES: tuple[Measure, ...] = ("requests", "tokens")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
TRY_AGAIN = re.compile(  # OpenAI, Gemini, Azure
    r"(?:try again|retry) in ((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)|retry after (\d+) seconds?"
)

# The maximum, whatever a provider asks for: another try costs only one request.
LONGEST_WAIT = 600.0  # seconds
MOST_A_MINUTE = 1e12  # requests or tokens


def allowances(headers: Mapping[str, str]) -> dict[Measure, RateLimitStatus]:
    """Return the reported rate limits of requests and tokens. Unreadable ones are left out."""
    found: dict[Measure, RateLimitStatus] = {}
    for measure in MEASURES:
        limit = _number(headers.get(f"x-ratelimit-limit-{measure}", ""))
        remaining = _number(headers.get(f"x-ratelimit-remaining-{measure}", ""))
        if limit and 1 <= limit <= MOST_A_MINUTE and remaining is not None:
            reset = _duration(headers.get(f"x-ratelimit-reset-{measure}", ""))
            found[measure] = RateLimitStatus(limit, min(remaining, limit), reset or 0.0)
    return found


def seconds_to_wait(headers: Mapping[str, str], words: str = "") -> float | None:
    """How many seconds the provider asks to wait, LONGEST_WAIT at most: by `retry-after-ms`, by
    `retry-after`, in its message, or by the reset of an exhausted limit. None if it does not
    say."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_WAIT)
    asked = _retry_after(headers.get("retry-after", ""))
    if asked is not None:
        return asked
    if sentence := TRY_AGAIN.search(words):
        return _duration(sentence[1] or sentence[2])
    resets = [a.reset for a in allowances(headers).values() if a.remaining <= 0 and a.reset]
    return max(resets, default=None)


def _retry_after(given: str) -> float | None:
    seconds = _number(given)
    if seconds is not None:
        return min(seconds, LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(given)
        if moment.tzinfo is None:  # how Python reads `-0000`
            moment = moment.replace(tzinfo=UTC)
        wait = (moment - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, LookupError, ArithmeticError):  # not a date, or out of range
        return None
    return min(max(0.0, wait), LONGEST_WAIT)


def _duration(given: str) -> float | None:
    """Seconds, from `6m0s`, `7.66s`, `20ms`, or a bare number of seconds. LONGEST_WAIT at most."""
    if DURATION.fullmatch(given):
        seconds = sum(float(amount) * UNITS[unit] for amount, unit in PART.findall(given))
        return min(seconds, LONGEST_WAIT)
    bare = _number(given)
    return None if bare is None else min(bare, LONGEST_WAIT)


def _number(given: str) -> float | None:
    try:
        number = float(given)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
