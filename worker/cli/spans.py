"""Spans of time as people write them: `30m`, `24h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta

from worker.errors import SettingsError

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span_of(given: str) -> timedelta:
    """The span that somebody typed, above zero. Raises SettingsError."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?([smhd])", given.strip(), re.ASCII)
    span = timedelta(**{UNITS[found[2]]: float(found[1])}) if found else timedelta(0)
    if not span:
        raise SettingsError(
            f"this is no span of time: `{given}`", "Write a number and a unit: 90s, 30m, 24h or 7d."
        )
    return span
