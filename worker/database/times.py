"""Times of Postgres for which Python has no date, like `infinity`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

A_DAY = timedelta(days=1)


def nearest_time(value: str) -> datetime:
    """Return the time nearest to `value` that Python has: one day inside its calendar.

    The day lets the time be shown in any time zone.
    """
    is_past = value.startswith("-") or value.endswith("BC")
    nearest = datetime.min + A_DAY if is_past else datetime.max - A_DAY
    return nearest.replace(tzinfo=UTC)
