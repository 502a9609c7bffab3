"""What came of a batch, written to the queue: each job ends completed, failed or pending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from worker.engine.embedding import Outcome
from worker.engine.leases import Leases
from worker.engine.progress import Tally
from worker.engine.retry import backoff, pause_after
from worker.errors import Busy, ProviderError, Transient, WorkerError
from worker.queue import Completion, Job, JobId, Queue, RefusalReason

SECOND_TRY_AFTER = 0.005  # seconds, what a claim takes, until a locked row is tried again
NOT_OPENED = "not_configured"  # error class of jobs whose model lacks a setting or a package
# Of vectors, in one statement. Above its work_mem (4 MB by default) Postgres puts them on disk:
# 95 µs a row of 1536 dimensions became 380.
BYTES_AT_ONCE = 1_500_000
LOCKED_ROW_RETRY = timedelta(seconds=1)  # until a job is due again whose row stayed locked


@dataclass(slots=True)
class Writer:
    """Hands jobs in, and counts them. `troubles` has the targets whose model cannot be used now."""

    queue: Queue
    leases: Leases
    tally: Tally
    stop: Event
    troubles: dict[int, WorkerError] = field(default_factory=dict)

    def write(self, jobs: Collection[Job], outcome: Outcome) -> None:
        """Write what became of `jobs`. Vectors of jobs that were lost meanwhile are thrown away."""
        lost = self.leases.let_go(jobs)
        ours = [done for done in outcome.completions if done.job.ticket not in lost]
        self.tally.stale += len(outcome.completions) - len(ours)
        at_once = max(BYTES_AT_ONCE // ours[0].vector.nbytes, 1) if ours else 1
        for first in range(0, len(ours), at_once):
            self._complete(ours[first : first + at_once])
        for job, refusal in outcome.rejected:
            self._fail(job, refusal.error_class, refusal.cause, None)
        for job, failure in outcome.failed:
            pause = backoff(failure.error_class, job.attempts + 1)
            self._fail(job, failure.error_class, failure.cause, pause)
        if outcome.trouble:
            self.give_back(outcome.unfinished, outcome.trouble)
        else:
            self.release(outcome.unfinished, timedelta(0), "its worker was stopped")

    def give_back(self, jobs: Sequence[Job], trouble: WorkerError) -> None:
        """Hand back the jobs of a target whose model cannot be used now."""
        pause = pause_after(trouble) if isinstance(trouble, Transient) else timedelta(0)
        error_class = trouble.error_class if isinstance(trouble, ProviderError) else NOT_OPENED
        self.release(jobs, pause, trouble.cause, error_class)
        if jobs and not self.stop.is_set():
            self.troubles.setdefault(jobs[0].target_id, trouble)

    def release(
        self,
        jobs: Sequence[Job],
        retry_in: timedelta,
        reason: str,
        error_class: str | None = None,
    ) -> None:
        """Hand back jobs, to be due again after about `retry_in`."""
        self.leases.let_go(jobs)
        if jobs:
            self.queue.release(jobs, retry_in, reason, error_class)
            self.tally.released += len(jobs)

    def _complete(self, completions: Sequence[Completion]) -> None:
        """Write vectors. A row that somebody holds just now gets a second try, and then time."""
        reasons = self._try_to_complete(completions)
        locked = [done for done in completions if reasons.get(done.job.id) == "locked"]
        if locked:
            self.stop.wait(SECOND_TRY_AFTER)
            second = self._try_to_complete(locked)
            reasons |= {done.job.id: second.get(done.job.id) for done in locked}
        refused: dict[RefusalReason | None, list[Job]] = defaultdict(list)
        for done in completions:
            reason = reasons.get(done.job.id)
            refused[reason].append(done.job)
            self._count(done, reason)
        self.release(refused["locked"], LOCKED_ROW_RETRY, "its row was locked")
        self.release(refused["set_aside"], timedelta(0), "its target is set aside")
        self.release(refused["other_model"], timedelta(0), "its column has another model")

    def _try_to_complete(
        self, completions: Sequence[Completion]
    ) -> dict[JobId, RefusalReason | None]:
        """Why jobs were refused, if they were."""
        if not completions:
            return {}
        try:
            refusals = self.queue.complete(completions[0].job.model, completions)
        except Busy:
            return {done.job.id: "locked" for done in completions}
        return {refusal.job_id: refusal.reason for refusal in refusals}

    def _count(self, done: Completion, reason: RefusalReason | None) -> None:
        match reason:
            case None:
                self.tally.add_completed(done.job)
            case "lost":
                self.tally.stale += 1
            case "unwritable":
                self.tally.add_failed(done.job.model)
            case "changed":  # without telling the queue: once by accident, five times by design
                self._fail(
                    done.job,
                    "changed",
                    "the text changed while it was embedded, without its trigger:"
                    " is the source a function of the row alone?",
                    backoff("changed", done.job.attempts + 1),
                )

    def _fail(self, job: Job, error_class: str, reason: str, retry_in: timedelta | None) -> None:
        failed = self.queue.fail([job], error_class, reason, retry_in)
        self.tally.add_failed(job.model, failed)
        if retry_in is None:
            self.tally.stale += 1 - failed  # edited meanwhile: the reason is not that of its text
        else:
            self.tally.released += 1 - failed
