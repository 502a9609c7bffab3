"""A circuit breaker for a provider or a model (Michael Nygard, Release It!, 2007).

An error opens it, and nothing more is sent. After a pause a trial is allowed: an answer closes
the breaker, another error makes the pause longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from worker.errors import Transient, WorkerError

FIRST_PAUSE = 1.0  # seconds from an error to the next trial; doubles with each failure
LONGEST_PAUSE = 60.0  # seconds, also if a provider asks for more


@dataclass(slots=True)
class Breaker:
    """Used by all threads. `subject` is the name of the provider or the model."""

    subject: str = ""
    error: WorkerError | None = None
    """Why it is open; None: it is closed."""
    _is_trying: bool = False
    _pause: float = 0.0
    _retry_at: float = math.inf
    _reported_for: set[int] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    @property
    def is_open(self) -> bool:
        return self.error is not None

    @property
    def blocks(self) -> bool:
        """Whether requests end with `error` instead of being sent."""
        return self.error is not None and not self._is_trying

    @property
    def is_due(self) -> bool:
        """Whether it is open, and the pause is over."""
        return self.blocks and time.monotonic() >= self._retry_at

    def fail(self, error: WorkerError) -> None:
        """Open it. While it is open, only the failure of a trial counts: requests that were sent
        earlier fail as well, and add no information."""
        with self._lock:
            if self.blocks:
                return
            asked = error.retry_after if isinstance(error, Transient) else None
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            self.error, self._is_trying = error, False
            self._reported_for.clear()
            self._retry_at = time.monotonic() + min(max(self._pause, asked or 0.0), LONGEST_PAUSE)

    def close(self) -> None:
        """Close it after an answer."""
        with self._lock:
            self.error, self._is_trying, self._pause = None, False, 0.0
            self._reported_for.clear()

    def try_again(self) -> None:
        """Let requests through until one of them fails."""
        with self._lock:
            self._is_trying = self.error is not None

    def postpone(self) -> None:
        """Begin another pause, after a trial without an answer or an error."""
        with self._lock:
            now = time.monotonic()
            if self.error is not None and now >= self._retry_at:
                self._is_trying = False
                self._retry_at = now + max(self._pause, FIRST_PAUSE)

    def retry_now(self) -> None:
        """End the pause, and start over with the shortest one."""
        with self._lock:
            self._pause, self._retry_at = 0.0, time.monotonic()

    def is_news_for(self, target: int) -> bool:
        """Whether this is the first call for the target since the latest error."""
        with self._lock:
            is_news = self.error is not None and target not in self._reported_for
            self._reported_for.add(target)
            return is_news


def waiting_for(errors: Iterable[tuple[str, WorkerError]]) -> str | None:
    """Describe the columns that wait. `errors` has the subject and the error of each column."""
    counts: dict[tuple[str, str], int] = {}
    for subject, error in errors:
        counts[subject, error.cause] = counts.get((subject, error.cause), 0) + 1
    return (
        "; ".join(
            f"{count} column{'s wait' if count > 1 else ' waits'} for {subject}: {cause}"
            for (subject, cause), count in counts.items()
        )
        or None
    )
