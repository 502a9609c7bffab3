"""Writes the results of a batch to the queue: each job ends completed, failed or pending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from worker.engine.embedding import Outcome
from worker.engine.heartbeat import Leases
from worker.engine.progress import RunStats
from worker.engine.retry import backoff
from worker.errors import Busy, ProviderError, WorkerError
from worker.queue import Completion, Job, JobId, Queue, RefusalReason

SECOND_TRY_AFTER = 0.005  # seconds, what a claim takes, until a locked row is tried again
NOT_OPENED = "not_configured"  # error class of jobs whose model lacks a setting or a package
# Of vectors, in one statement. Above its work_mem (4 MB by default) Postgres puts them on disk:
# 95 µs a row of 1536 dimensions became 380.
BYTES_AT_ONCE = 1_500_000
LOCKED_ROW_RETRY = timedelta(seconds=1)  # until a job is due again whose row was locked once


@dataclass(slots=True)
class Writer:
    """Writes the results of jobs, and counts them."""

    queue: Queue
    leases: Leases
    stats: RunStats
    stop: Event

    def write(self, jobs: Collection[Job], outcome: Outcome) -> None:
        """Write the results of `jobs`. Vectors of jobs that were lost meanwhile are discarded.

        The leases are held until all is written: a heartbeat releases jobs that are not held.
        """
        lost = self.leases.lost(jobs)
        ours = [done for done in outcome.completions if done.job.lease_key not in lost]
        self.stats.add_stale(len(outcome.completions) - len(ours))
        at_once = max(BYTES_AT_ONCE // ours[0].vector.nbytes, 1) if ours else 1
        for first in range(0, len(ours), at_once):
            self._complete(outcome.model, ours[first : first + at_once])
        for job, refusal in outcome.rejected:
            self._fail(job, refusal.error_class, refusal.cause, None)
        for job, failure in outcome.failed:
            pause = backoff(failure.error_class, job.attempts + 1)
            self._fail(job, failure.error_class, failure.cause, pause)
        if outcome.error:
            self.release_untried(outcome.unfinished, outcome.error)
        else:
            self.release(outcome.unfinished, timedelta(0), "its worker was stopped")
        self.leases.let_go(job.lease_key for job in jobs)

    def release_untried(self, jobs: Sequence[Job], error: WorkerError) -> None:
        """Release the jobs of a model that cannot be used now. They are due at once: the breaker
        pauses this worker, and others find out by themselves."""
        error_class = error.error_class if isinstance(error, ProviderError) else NOT_OPENED
        self.release(jobs, timedelta(0), error.cause, error_class)

    def release(
        self,
        jobs: Sequence[Job],
        retry_in: timedelta,
        reason: str,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        """Release jobs, to be due again after about `retry_in`."""
        if jobs:
            self.queue.release(jobs, retry_in, reason, error_class, embedded=embedded)
            self.stats.add_released(len(jobs))
        self.leases.let_go(job.lease_key for job in jobs)

    def release_all(self, reason: str) -> None:
        """Release all jobs that are held, to be due at once."""
        self.release(self.leases.jobs, timedelta(0), reason)

    def _complete(self, model: str, completions: Sequence[Completion]) -> None:
        """Write vectors. A locked row is tried a second time; then its job is released."""
        reasons = self._try_to_complete(model, completions)
        locked = [done for done in completions if reasons.get(done.job.id) == "locked"]
        if locked:
            self.stop.wait(SECOND_TRY_AFTER)
            second = self._try_to_complete(model, locked)
            reasons |= {done.job.id: second.get(done.job.id) for done in locked}
        refused: dict[RefusalReason | None, list[Job]] = defaultdict(list)
        for done in completions:
            reason = reasons.get(done.job.id)
            refused[reason].append(done.job)
            self._count(done, reason)
        self.release(
            refused["locked"], LOCKED_ROW_RETRY, "its row was locked", "locked", embedded=True
        )
        self.release(refused["suspended"], timedelta(0), "its target is suspended", embedded=True)
        self.release(
            refused["other_model"], timedelta(0), "its column has another model", embedded=True
        )

    def _try_to_complete(
        self, model: str, completions: Sequence[Completion]
    ) -> dict[JobId, RefusalReason | None]:
        """Return the jobs that were refused, and why."""
        if not completions:
            return {}
        try:
            refusals = self.queue.complete(model, completions)
        except Busy:
            return {done.job.id: "locked" for done in completions}
        return {refusal.job_id: refusal.reason for refusal in refusals}

    def _count(self, done: Completion, reason: RefusalReason | None) -> None:
        match reason:
            case None:
                self.stats.add_completed(done.job)
            case "lost":
                self.stats.add_stale()
            case "unwritable":
                self.stats.add_failed(done.job.model)
            case "changed":  # without its trigger: once by accident, five times by design
                self._fail(
                    done.job,
                    "changed",
                    "the text changed while it was embedded, without its trigger:"
                    " is the source a function of the row alone?",
                    backoff("changed", done.job.attempts + 1),
                )

    def _fail(self, job: Job, error_class: str, reason: str, retry_in: timedelta | None) -> None:
        failed = self.queue.fail([job], error_class, reason, retry_in)
        self.stats.add_failed(job.model, failed)
        if retry_in is None:
            self.stats.add_stale(1 - failed)  # edited meanwhile: the reason is not that of its text
        else:
            self.stats.add_released(1 - failed)
