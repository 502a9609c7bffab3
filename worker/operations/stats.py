"""Statistics of recent work."""

from __future__ import annotations

from datetime import timedelta

from worker.durations import parse_duration
from worker.errors import SettingsError
from worker.queue import AdminQueue, Stats

LONGEST = timedelta(days=7)  # embedding_usage keeps its minutes for this long


def parse_since(given: str) -> timedelta:
    """Parse a duration like 24h. Raises SettingsError if it is invalid or too long."""
    since = parse_duration(given)
    if since > LONGEST:
        raise SettingsError(
            f"statistics are kept for 7 days: `{given}`", "Write --since 7d or less."
        )
    return since


def stats(queue: AdminQueue, since: timedelta = timedelta(days=1)) -> Stats:
    """Return how much was done in the time until now, how fast, at what cost, and what failed."""
    return queue.stats(since)
