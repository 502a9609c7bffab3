"""What one snapshot after another shows: how fast workers are, and how long jobs have waited."""

from __future__ import annotations

from collections import deque
from datetime import timedelta

from worker.errors import Unreachable
from worker.operations.status import StatusSnapshot, status
from worker.queue import AdminQueue, WorkerStatus

REMEMBERED = 240  # snapshots


class History:
    """What one look after the other found, or did not find."""

    def __init__(self) -> None:
        self.snapshot: StatusSnapshot | None = None
        self.outage: Unreachable | None = None
        self.rates: deque[float | None] = deque(maxlen=REMEMBERED)
        self.waits: deque[float | None] = deque(maxlen=REMEMBERED)
        self._throughput = Throughput()

    def take(self, queue: AdminQueue) -> None:
        """Look once more. A database out of reach is noted, and the last look kept."""
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
    """How fast workers are, by what each of them says from one heartbeat to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, WorkerStatus] = {}
        self._rates: dict[str, float] = {}

    def after(self, snapshot: StatusSnapshot) -> float | None:
        """Jobs a second of all that are not silent.

        Before one of them has spoken twice: those of `embedding_progress`, None if it knows none.
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
