"""Whether the main loop of a run still turns, for the probe of a container."""

from __future__ import annotations

import time

from worker.engine.progress import RunStats

LEAST = 300.0  # seconds; as in deploy/embedding-worker.service


class Health:
    """A Progress that notices when the main loop is stuck.

    The loop turns every few seconds, also while it waits for a model or for the database, or is
    paused. After a `lease` (seconds) without a turn, other workers have its jobs. A short lease
    does not make one slow statement look stuck: it may always take LEAST seconds.
    """

    def __init__(self, lease: float) -> None:
        self._longest = max(lease, LEAST)
        self._turned_at = time.monotonic()

    def update(self, stats: RunStats) -> None:
        self.pulse()

    def pulse(self) -> None:
        self._turned_at = time.monotonic()

    def event(self, name: str, **fields: object) -> None:
        pass

    @property
    def problem(self) -> str | None:
        """Why the run counts as stuck, in one line; None: it does not."""
        seconds = time.monotonic() - self._turned_at
        if seconds <= self._longest:
            return None
        return f"the main loop has not turned for {seconds:.0f} s"
