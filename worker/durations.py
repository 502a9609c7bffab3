"""Durations as people write them, `30m` or `7d`, and as they read them, `12 min 5 s`."""

from __future__ import annotations

import re
from datetime import timedelta

from worker.errors import SettingsError

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""By the letter after a number."""


def parse_duration(given: str) -> timedelta:
    """Parse a duration above zero. Raises SettingsError."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?([smhd])", given.strip(), re.ASCII)
    duration = timedelta(seconds=float(found[1]) * SECONDS[found[2]]) if found else timedelta(0)
    if not duration:
        raise SettingsError(
            f"invalid duration: `{given}`",
            "Write a number and a unit: 90s, 30m, 24h or 7d.",
        )
    return duration


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: `45 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, length in units:
        count, left = divmod(left, length)
        if count or parts or unit == "s":
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count or len(parts) == 1)
