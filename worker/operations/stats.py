"""What was done in the last hours."""

from __future__ import annotations

from datetime import timedelta

from worker.durations import span_of
from worker.errors import SettingsError
from worker.queue import AdminQueue, Stats

LONGEST = timedelta(days=7)  # for so long embedding_usage keeps its minutes


def parse_since(given: str) -> timedelta:
    """The time that somebody typed, like 24h. Raises SettingsError if it is too long or none."""
    since = span_of(given)
    if since > LONGEST:
        raise SettingsError(
            f"what was done is kept for 7 days: `{given}`", "Write --since 7d or less."
        )
    return since


def stats(queue: AdminQueue, since: timedelta = timedelta(days=1)) -> Stats:
    """Return how much was done in the time until now, how fast, at what cost, and what failed."""
    return queue.stats(since)
