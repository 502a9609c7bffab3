"""The loop: claim ahead while requests are under way, write behind, and stop when asked.

One thread talks to the database. Requests to the model run in a pool beside it, so no transaction
is ever open while a model works. What is under way is bounded, whatever the length of the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from threading import Event

from worker.embedders import Embedder
from worker.engine.embedding import Outcome, embed
from worker.engine.leases import Leases
from worker.engine.patience import PatientQueue
from worker.engine.progress import Progress, Tally
from worker.engine.writing import Writer
from worker.errors import Busy, WorkerError
from worker.queue import Claim, Job, Queue, Scope

LOCKED_PATIENCE = 30.0  # seconds to wait for a table that is locked as a whole
LOCKED_PAUSE = 0.2  # seconds between two looks at it
ATTENTION = 0.25  # seconds between two looks at heartbeat and `stop` while a model works

MAX_REQUESTS = 32  # under way at once, whatever a provider would bear

OpenEmbedder = Callable[[str, int | None], Embedder]


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run goes about it. With a `delay` (seconds) batches go one at a time.

    Once it is to stop, what is under way has `grace` seconds to end.
    """

    batch_size: int
    delay: float = 0.0
    limit: int | None = None
    grace: float = 20.0


@dataclass(slots=True)
class Pipeline:
    """One run over the jobs in `scope`. Set `stop` to end it early, with nothing left half done.

    A target whose model is out or cannot be used is left alone for the rest of the run: its jobs go
    back untouched, and `troubles` says why. The others go on.
    """

    queue: InitVar[Queue]
    open_embedder: OpenEmbedder
    scope: Scope
    pace: Pace
    progress: Progress
    stop: Event
    tally: Tally = field(default_factory=Tally)
    _queue: PatientQueue = field(init=False)
    _leases: Leases = field(init=False)
    _writer: Writer = field(init=False)
    _embedders: dict[tuple[str, int | None], Embedder] = field(default_factory=dict)
    _under_way: dict[Future[Outcome], list[Job]] = field(default_factory=dict)
    _room: int = 1
    _stopped_at: float | None = None

    def __post_init__(self, queue: Queue) -> None:
        self._queue = PatientQueue(queue, self.progress, self.stop)
        self._leases = Leases(self._queue, self.scope)
        self._writer = Writer(self._queue, self._leases, self.tally, self.stop)
        # what was claimed by a call whose answer was lost is found out by the next heartbeat
        self._queue.on_outage = self._leases.beat_soon

    @property
    def troubles(self) -> list[WorkerError]:
        """Why targets were left alone, the first reason first."""
        return list(self._writer.troubles.values())

    def drain(self) -> Tally:
        """Work until nothing is due, the limit is reached, or `stop` is set.

        Waits for a database that is out of reach. Raises Unreachable if it stays so; what was
        claimed is then due again when its lease runs out.
        """
        pool = ThreadPoolExecutor(MAX_REQUESTS, "embed")
        try:
            self._beat()
            while self._claim_ahead(pool) or self._under_way:
                self._write_behind()
            self._queue.gone(self.scope)
        finally:
            if self._under_way:  # the database is lost: do not wait for the model as well
                self.stop.set()
            pool.shutdown(wait=False)
            for embedder in self._embedders.values():
                embedder.close()
        return self.tally

    def _claim_ahead(self, pool: ThreadPoolExecutor) -> bool:
        """Fill the room for requests. False if there is nothing to claim, or it is time to end."""
        while self._wanted() > 0 and len(self._under_way) < self._room:
            claim = self._claim()
            if not claim:
                return False
            self._leases.hold(claim.jobs)
            self.tally.add_settled(claim.settled)
            if claim.jobs:
                self._take_up(pool, claim.jobs)
            else:
                self.progress.update(self.tally)
        return self._wanted() > 0

    def _wanted(self) -> int:
        """How many jobs may be claimed next."""
        if self.stop.is_set():
            return 0
        if self.pace.limit is None:
            return self.pace.batch_size
        taken = self.tally.taken + sum(len(jobs) for jobs in self._under_way.values())
        return min(self.pace.batch_size, self.pace.limit - taken)

    def _claim(self) -> Claim | None:
        patience = time.monotonic() + LOCKED_PATIENCE
        while not self.stop.is_set():
            self._beat()
            try:
                claim = self._queue.claim(self.scope, self._wanted(), self._writer.troubles.keys())
                if claim or not self._leases.beat_is_due:
                    return claim
            except Busy:
                if self._under_way:
                    return None
                if time.monotonic() > patience:
                    raise
                self.stop.wait(LOCKED_PAUSE)
        return None

    def _take_up(self, pool: ThreadPoolExecutor, jobs: list[Job]) -> None:
        alone = jobs[0].alone  # or what is under way beside it would go down with it once more
        while alone and self._under_way:
            self._write_behind()
        self._submit(pool, jobs)
        while alone and self._under_way:
            self._write_behind()

    def _submit(self, pool: ThreadPoolExecutor, jobs: list[Job]) -> None:
        wanted = (jobs[0].model, jobs[0].dimensions)
        try:
            if wanted not in self._embedders:
                self._embedders[wanted] = self.open_embedder(*wanted)
        except WorkerError as trouble:
            self._writer.give_back(jobs, trouble)
            return
        embedder = self._embedders[wanted]
        self._room = 1 if self.pace.delay else min(embedder.concurrency.first, MAX_REQUESTS)
        self._under_way[pool.submit(embed, embedder, jobs, self.stop)] = jobs

    def _write_behind(self) -> None:
        """Wait a moment for a request to end, and write what came of it."""
        finished, _ = wait(self._under_way, ATTENTION, FIRST_COMPLETED)
        self._beat()
        for future in finished:
            self._writer.write(self._under_way.pop(future), future.result())
            self.progress.update(self.tally)
            if self.pace.delay and self._wanted() > 0:
                self.stop.wait(self.pace.delay)
        if self._out_of_grace():
            for jobs in self._under_way.values():
                self._writer.release(jobs, timedelta(0), "its worker was stopped")
            self._under_way.clear()

    def _out_of_grace(self) -> bool:
        if not self.stop.is_set():
            return False
        self._stopped_at = self._stopped_at or time.monotonic()
        return time.monotonic() > self._stopped_at + self.pace.grace

    def _beat(self) -> None:
        self._leases.beat_if_due(self.tally, "stopping" if self.stop.is_set() else "working")
