"""The jobs in hand, and the heartbeat that keeps them there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.queue import Job, JobId, LeaseKey, Queue, Report, Scope

BEATS_A_LEASE = 3  # so that one may come late
FIRST_SILENCE = 1.0  # seconds after a change; doubles, so that the rate of new work is soon known
LONGEST_SILENCE = 30.0  # seconds; a worker that is silent for longer is taken for dead


@dataclass(slots=True)
class Leases:
    """What the worker has claimed and not handed in. Used by the thread that owns the queue.

    A job is held once: if it is claimed again while its old text is embedded, the old lease is
    lost.

    `queue` is one that does not wait for its database: a beat is sent while something else waits.
    """

    queue: Queue
    scope: Scope
    _held: dict[JobId, Job] = field(default_factory=dict)
    changed_at: float = field(default_factory=time.monotonic)
    """When the state of the worker changed."""
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
        self._held |= {job.id: job for job in jobs}

    def lost(self, jobs: Iterable[Job]) -> set[LeaseKey]:
        """Which of these jobs were lost since they were claimed."""
        return {job.lease_key for job in jobs if not self._holds(job.lease_key)}

    def let_go(self, jobs: Iterable[Job]) -> None:
        """Jobs were handed in."""
        self._drop(job.lease_key for job in jobs)

    def beat_if_due(self, report: Report) -> None:
        """Extend the leases of all jobs in hand, and say that the worker is there.

        Raises Unreachable; the beat is still due then.
        """
        if not self.beat_is_due:
            return
        self._drop(self.queue.extend(self.scope, self.jobs))
        self.queue.heartbeat(self.scope, report)
        now = time.monotonic()
        interval = min(
            self.scope.lease.total_seconds() / BEATS_A_LEASE,
            LONGEST_SILENCE,
            max(now - self.changed_at, FIRST_SILENCE),
        )
        self._next_beat = now + interval

    def beat_soon(self) -> None:
        """Make the next beat due at once: there is a change to report."""
        self._next_beat = 0.0
        self.changed_at = time.monotonic()

    def _holds(self, lease_key: LeaseKey) -> bool:
        held = self._held.get(lease_key[0])
        return held is not None and held.lease_key == lease_key

    def _drop(self, lease_keys: Iterable[LeaseKey]) -> None:
        for lease_key in lease_keys:
            if self._holds(lease_key):
                del self._held[lease_key[0]]
