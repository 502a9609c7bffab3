"""The jobs in hand, and the heartbeat that keeps them there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.queue import Job, Queue, Report, Scope, Ticket

BEATS_A_LEASE = 3  # so that one may come late
LONGEST_SILENCE = 30.0  # seconds; of whom nothing was seen for longer, people think that he is dead


@dataclass(slots=True)
class Leases:
    """What the worker has claimed and not handed in. Used by the thread that owns the queue."""

    queue: Queue
    scope: Scope
    _held: dict[Ticket, Job] = field(default_factory=dict)
    _next_beat: float = 0.0

    @property
    def beat_is_due(self) -> bool:
        return time.monotonic() >= self._next_beat

    @property
    def jobs(self) -> list[Job]:
        """All jobs in hand."""
        return list(self._held.values())

    def hold(self, jobs: Iterable[Job]) -> None:
        """Jobs were claimed."""
        self._held |= {job.ticket: job for job in jobs}

    def let_go(self, jobs: Iterable[Job]) -> set[Ticket]:
        """Jobs are about to be handed in. Returns which of them were lost meanwhile."""
        return {job.ticket for job in jobs if self._held.pop(job.ticket, None) is None}

    def beat_if_due(self, report: Report) -> None:
        """Extend the leases of all jobs in hand, and say that the worker is there."""
        if not self.beat_is_due:
            return
        for ticket in self.queue.extend(self.scope, self.jobs):
            del self._held[ticket]
        self.queue.seen(self.scope, report)
        interval = min(self.scope.lease.total_seconds() / BEATS_A_LEASE, LONGEST_SILENCE)
        self._next_beat = time.monotonic() + interval

    def beat_soon(self) -> None:
        """Make the next beat due at once."""
        self._next_beat = 0.0
