"""Figures over several snapshots: how fast workers are, and how long jobs have waited."""

from __future__ import annotations

from collections import deque
from datetime import timedelta

from worker.errors import Unreachable
from worker.operations.status import StatusSnapshot, status
from worker.queue import AdminQueue, WorkerStatus

REMEMBERED = 240  # snapshots


class History:
    """The latest snapshot or outage, and the figures of the snapshots before."""

    def __init__(self) -> None:
        self.snapshot: StatusSnapshot | None = None
        self.outage: Unreachable | None = None
        self.rates: deque[float | None] = deque(maxlen=REMEMBERED)
        self.waits: deque[float | None] = deque(maxlen=REMEMBERED)
        self._throughput = Throughput()

    def take(self, queue: AdminQueue) -> None:
        """Take a snapshot. If the database is out of reach, keep the last one and note that."""
        try:
            self.snapshot, self.outage = status(queue), None
        except Unreachable as outage:
            self.outage = outage
            self.rates.append(None)
            self.waits.append(None)
        else:
            self.rates.append(self._throughput.after(self.snapshot))
            self.waits.append(self.snapshot.waiting_for)


class Throughput:
    """The rate of all workers, from the difference between two heartbeats of each."""

    def __init__(self) -> None:
        self._seen: dict[str, WorkerStatus] = {}
        self._rates: dict[str, float] = {}

    def after(self, snapshot: StatusSnapshot) -> float | None:
        """Return the jobs a second of all workers that are not silent.

        Before the second heartbeat of any of them, the rate of `embedding_progress`, which may be
        None.
        """
        for worker in snapshot.workers:
            before = self._seen.get(worker.worker, worker)
            seconds = (worker.seen_at - before.seen_at) / timedelta(seconds=1)
            if seconds > 0:
                jobs = worker.completed + worker.failed - before.completed - before.failed
                self._rates[worker.worker] = max(jobs, 0) / seconds
            self._seen[worker.worker] = worker
        there = {worker.worker for worker in snapshot.workers if not snapshot.is_silent(worker)}
        rates = [rate for name, rate in self._rates.items() if name in there]
        return sum(rates) if rates or not there else snapshot.progress.rows_per_second
