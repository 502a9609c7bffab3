"""The heartbeat: it extends the leases of a worker, and reports its state to the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Event

from worker.engine.progress import Progress, RunStats
from worker.engine.throttling import RunThrottle
from worker.queue import Job, JobId, LeaseKey, Queue, Report, Scope, WorkerState

BEATS_A_LEASE = 3  # so that one may come late
FIRST_SILENCE = 1.0  # seconds between heartbeats after a change; grows with the time since
LONGEST_SILENCE = 30.0  # seconds; well below the time after which a worker counts as silent


@dataclass(slots=True)
class Leases:
    """The jobs that the worker has claimed and not finished.

    A job is held once: if it is claimed again while its old text is embedded, the old lease is
    lost.
    """

    _held: dict[JobId, Job] = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """All jobs that are held."""
        return list(self._held.values())

    def hold(self, jobs: Iterable[Job]) -> None:
        """Hold jobs that were claimed."""
        self._held |= {job.id: job for job in jobs}

    def lost(self, jobs: Iterable[Job]) -> set[LeaseKey]:
        """Return which of these jobs were lost since they were claimed."""
        return {job.lease_key for job in jobs if not self._holds(job.lease_key)}

    def let_go(self, lease_keys: Iterable[LeaseKey]) -> None:
        """Stop holding these leases. A newer lease of the same job stays."""
        for lease_key in lease_keys:
            if self._holds(lease_key):
                del self._held[lease_key[0]]

    def _holds(self, lease_key: LeaseKey) -> bool:
        held = self._held.get(lease_key[0])
        return held is not None and held.lease_key == lease_key


@dataclass(slots=True)
class Activity:
    """The state of the worker, as the list of workers shows it."""

    stats: RunStats
    throttle: RunThrottle
    progress: Progress
    stop: Event
    state: WorkerState = "working"
    cause: str | None = None
    """Why it is in this state."""
    since: float = field(default_factory=time.monotonic)
    listens: bool = False
    """Whether a notification reaches it."""

    def enter(self, state: WorkerState, cause: str) -> None:
        """Enter a state, and report it to the observers if it is another one."""
        if state != self.state:
            self.progress.event("state_changed", state=state, cause=cause)
        self.state, self.cause, self.since = state, cause, time.monotonic()

    def set_listening(self, listens: bool) -> None:
        """Note whether a notification reaches the worker."""
        self.listens = listens

    def report(self) -> Report:
        """Return the report that is sent with each heartbeat."""
        decision = self.throttle.decision
        return Report(
            state="stopping" if self.stop.is_set() else self.state,
            completed=self.stats.completed,
            failed=self.stats.failed,
            usage=self.stats.usage,
            throttle_level=decision.level,
            cause=decision.cause or self.cause,
            # a paused worker need not be woken
            listens=self.listens and decision.level != "paused",
        )


@dataclass(slots=True)
class Heartbeat:
    """Extends the leases and reports the worker at intervals.

    Used by the thread that owns the queue. `queue` must not wait for its database: a heartbeat is
    sent while another call waits for it.
    """

    queue: Queue
    scope: Scope
    leases: Leases
    report: Callable[[], Report]
    changed_at: float = field(default_factory=time.monotonic)
    """When the state of the worker changed."""
    _next_beat: float = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_beat

    def beat_if_due(self) -> None:
        """Extend all leases, drop those that are lost, and report what the worker does.

        Raises Unreachable; the heartbeat is then still due.
        """
        if not self.is_due:
            return
        self.leases.let_go(self.queue.extend(self.scope, self.leases.jobs))
        self.queue.heartbeat(self.scope, self.report())
        now = time.monotonic()
        interval = min(
            self.scope.lease.total_seconds() / BEATS_A_LEASE,
            LONGEST_SILENCE,
            max(now - self.changed_at, FIRST_SILENCE),
        )
        self._next_beat = now + interval

    def beat_soon(self, within: float = 0.0) -> None:
        """Report a change: send the next heartbeat after `within` seconds at the latest."""
        self.changed_at = time.monotonic()
        self._next_beat = min(self._next_beat, self.changed_at + within)
