"""The loop: claim ahead while requests are under way, write behind, and stop when asked.

One thread talks to the database. Requests to the model run in a pool beside it, so no transaction
is ever open while a model works. What is under way is bounded, whatever the length of the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from worker.embedders import Embedder
from worker.engine.embedding import Outcome, embed
from worker.engine.progress import Progress, Tally
from worker.engine.retry import backoff, pause_after
from worker.errors import Busy, Transient, WorkerError
from worker.queue import Claim, Completion, Job, Queue, Refusal, Scope

LOCKED_PATIENCE = 30.0  # seconds to wait for a table that is locked as a whole
LOCKED_PAUSE = 0.2  # seconds between two looks at it
SECOND_TRY_AFTER = 0.02  # seconds until a completion is tried again whose row was locked
LOCKED_ROW_RETRY = timedelta(seconds=1)  # until a job is due again whose row stayed locked

MAX_REQUESTS = 32  # under way at once, whatever a provider would bear

OpenEmbedder = Callable[[str, int | None], Embedder]


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run goes about it. With a `delay` (seconds) batches go one at a time."""

    batch_size: int
    delay: float = 0.0
    limit: int | None = None


@dataclass(slots=True)
class Pipeline:
    """One run over the jobs in `scope`. Set `stop` to end it early, with nothing left half done."""

    queue: Queue
    open_embedder: OpenEmbedder
    scope: Scope
    pace: Pace
    progress: Progress
    stop: Event
    tally: Tally = field(default_factory=Tally)
    trouble: WorkerError | None = None
    _embedders: dict[tuple[str, int | None], Embedder] = field(default_factory=dict)
    _under_way: dict[Future[Outcome], list[Job]] = field(default_factory=dict)
    _room: int = 1

    def drain(self) -> Tally:
        """Work until nothing is due, the limit is reached, or `stop` is set.

        A provider that is out, or that refuses, ends the run as well: its jobs go back untouched,
        and `trouble` says why. Raises DatabaseError if the database is out of reach; what was
        claimed is then due again when its lease runs out.
        """
        pool = ThreadPoolExecutor(MAX_REQUESTS, "embed")
        try:
            while self._claim_ahead(pool) or self._under_way:
                self._write_behind()
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
            self.tally.add_settled(claim.settled)
            if claim.jobs:
                self._submit(pool, claim.jobs)
            else:
                self.progress.update(self.tally)
        return self._wanted() > 0

    def _wanted(self) -> int:
        """How many jobs may be claimed next."""
        if self.stop.is_set() or self.trouble:
            return 0
        if self.pace.limit is None:
            return self.pace.batch_size
        taken = self.tally.taken + sum(len(jobs) for jobs in self._under_way.values())
        return min(self.pace.batch_size, self.pace.limit - taken)

    def _claim(self) -> Claim | None:
        patience = time.monotonic() + LOCKED_PATIENCE
        while not self.stop.is_set():
            try:
                return self.queue.claim(self.scope, self._wanted())
            except Busy:
                if self._under_way:
                    return None
                if time.monotonic() > patience:
                    raise
                self.stop.wait(LOCKED_PAUSE)
        return None

    def _submit(self, pool: ThreadPoolExecutor, jobs: list[Job]) -> None:
        wanted = (jobs[0].model, jobs[0].dimensions)
        try:
            if wanted not in self._embedders:
                self._embedders[wanted] = self.open_embedder(*wanted)
        except WorkerError as trouble:
            self._give_back(jobs, timedelta(0), trouble)
            return
        embedder = self._embedders[wanted]
        self._room = 1 if self.pace.delay else min(embedder.concurrency, MAX_REQUESTS)
        self._under_way[pool.submit(embed, embedder, jobs, self.stop)] = jobs

    def _write_behind(self) -> None:
        """Wait for a request to end, and write what came of it."""
        finished, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        for future in finished:
            outcome = future.result()
            del self._under_way[future]
            self._complete(outcome.completions)
            for job, refusal in outcome.rejected:
                self.tally.failed += self.queue.fail([job], refusal.error_class, refusal.cause)
            if outcome.trouble:
                pause = timedelta(0)
                if isinstance(outcome.trouble, Transient):
                    pause = pause_after(outcome.trouble)
                self._give_back(outcome.unfinished, pause, outcome.trouble)
            self.progress.update(self.tally)
            if self.pace.delay and self._wanted() > 0:
                self.stop.wait(self.pace.delay)

    def _give_back(self, jobs: list[Job], retry_in: timedelta, trouble: WorkerError) -> None:
        self.queue.release(jobs, retry_in, trouble.cause)
        self.tally.released += len(jobs)
        if not self.stop.is_set():
            self.trouble = self.trouble or trouble

    def _complete(self, completions: list[Completion]) -> None:
        """Write vectors. A row that somebody holds just now gets a second try, and then time."""
        refused = self._try_to_complete(completions)
        locked = {refusal.job_id for refusal in refused if refusal.reason == "locked"}
        if locked:
            self.stop.wait(SECOND_TRY_AFTER)
            again = [completion for completion in completions if completion.job.id in locked]
            refused = [refusal for refusal in refused if refusal.reason != "locked"]
            refused += self._try_to_complete(again)
        reasons = {refusal.job_id: refusal.reason for refusal in refused}
        for completion in completions:
            match reasons.get(completion.job.id):
                case None:
                    self.tally.completed += 1
                    self.tally.add_tokens(completion.tokens)
                case "lost":
                    self.tally.stale += 1
                case "locked":
                    self.queue.release([completion.job], LOCKED_ROW_RETRY, "its row was locked")
                    self.tally.released += 1
                case "changed":
                    self._fail_changed(completion.job)

    def _try_to_complete(self, completions: list[Completion]) -> list[Refusal]:
        if not completions:
            return []
        try:
            return self.queue.complete(completions[0].job.model, completions)
        except Busy:
            return [Refusal(completion.job.id, "locked") for completion in completions]

    def _fail_changed(self, job: Job) -> None:
        """The text changed and nobody told the queue: once by accident, five times by design."""
        failed = self.queue.fail(
            [job],
            "changed",
            "the text changed while it was embedded, without its trigger:"
            " is the source a function of the row alone?",
            backoff(job.attempts),
        )
        self.tally.failed += failed
        self.tally.released += 1 - failed
