"""Writes results to the queue: each job ends completed, failed or pending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from threading import Event
from typing import TypeVar

from worker.engine.embedding import Outcome
from worker.engine.heartbeat import Leases
from worker.engine.progress import RunStats
from worker.engine.retry import backoff
from worker.errors import Busy, ProviderError, WorkerError
from worker.queue import (
    Completion,
    DocumentCompletion,
    Job,
    JobId,
    Queue,
    Refusal,
    RefusalReason,
)

SECOND_TRY_AFTER = 0.005  # seconds, what a claim takes, until a locked row is tried again
NOT_OPENED = "not_configured"  # error class of jobs whose model lacks a setting or a package
# Of vectors, and of the texts of chunks, in one statement. Above its work_mem (4 MB by default)
# Postgres puts them on disk: 95 µs a row of 1536 dimensions became 380.
BYTES_AT_ONCE = 1_500_000
BYTES_OF_A_PLACE = 100  # about, with its heading path

Done = TypeVar("Done", Completion, DocumentCompletion)


@dataclass(frozen=True, slots=True)
class Release:
    """Why jobs are released. They are due again after about `retry_in`.

    `embedded`: their vectors were made, but could not be written.
    """

    reason: str
    retry_in: timedelta = timedelta(0)
    error_class: str | None = None
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job fails. It is tried again after about `retry_in`; None: it fails for good."""

    error_class: str
    reason: str
    retry_in: timedelta | None = None


STOPPED = Release("its worker was stopped")
RELEASED: Mapping[RefusalReason, Release] = {
    "locked": Release("its row was locked", timedelta(seconds=1), "locked", embedded=True),
    "suspended": Release("its target is suspended", embedded=True),
    "other_model": Release("its column has another model", embedded=True),
    "unstaged": Release("vectors of its chunks were cleared", embedded=True),
}
"""The refusals after which a job is tried again."""


def untried(error: WorkerError) -> Release:
    """Return the release of the jobs of a model that cannot be used now. They are due at once: the
    breaker pauses this worker, and others find out by themselves."""
    error_class = error.error_class if isinstance(error, ProviderError) else NOT_OPENED
    return Release(error.cause, error_class=error_class)


def rejected(refusal: ProviderError) -> Failure:
    """Return the failure of a text that will be rejected again."""
    return Failure(refusal.error_class, refusal.cause)


def failed(job: Job, failure: ProviderError) -> Failure:
    """Return the failure of a text that made a provider fail, and may work later."""
    pause = backoff(failure.error_class, job.attempts + 1)
    return Failure(failure.error_class, failure.cause, pause)


def unfinished(outcome: Outcome) -> Release:
    """Return the release of the jobs that are unfinished."""
    release = untried(outcome.error) if outcome.error else STOPPED
    return replace(release, retry_in=outcome.retry_in)


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
        for part in _in_parts(ours, lambda done: done.vector.nbytes):
            self._complete(partial(self.queue.complete, outcome.model), part)
        for job, refusal in outcome.rejected:
            self.fail(job, rejected(refusal))
        for job, failure in outcome.failed:
            self.fail(job, failed(job, failure))
        self.release(outcome.unfinished, unfinished(outcome))
        self.leases.let_go(job.lease_key for job in jobs)

    def stage(self, model: str, chunks: Sequence[Completion]) -> dict[JobId, RefusalReason]:
        """Store vectors of chunks. Return the documents that were refused, and why."""
        refused: dict[JobId, RefusalReason] = {}
        for part in _in_parts(chunks, lambda done: done.vector.nbytes + len(done.job.content)):
            refused |= self._refusals(partial(self.queue.stage, model), part)
        return refused

    def complete_documents(self, model: str, documents: Sequence[DocumentCompletion]) -> None:
        """Complete documents whose chunks are stored: small ones together, large ones alone."""
        for part in _in_parts(documents, lambda done: len(done.places) * BYTES_OF_A_PLACE):
            self._complete(partial(self.queue.complete_documents, model), part)
        self.leases.let_go(done.job.lease_key for done in documents)

    def release(self, jobs: Sequence[Job], release: Release) -> None:
        """Release jobs."""
        if jobs:
            self.queue.release(
                jobs,
                release.retry_in,
                release.reason,
                release.error_class,
                embedded=release.embedded,
            )
            self.stats.add_released(len(jobs))
        self.leases.let_go(job.lease_key for job in jobs)

    def release_all(self) -> None:
        """Release all jobs that are held, to be due at once: the worker stops."""
        self.release(self.leases.jobs, STOPPED)

    def fail(self, job: Job, failure: Failure) -> None:
        """Record why a job fails."""
        failures = self.queue.fail([job], failure.error_class, failure.reason, failure.retry_in)
        self.stats.add_failed(job.model, failures)
        if failure.retry_in is None:
            # edited meanwhile: the reason is not that of its text
            self.stats.add_stale(1 - failures)
        else:
            self.stats.add_released(1 - failures)
        self.leases.let_go([job.lease_key])

    def refuse(self, job: Job, reason: RefusalReason) -> None:
        """Count a job that was refused, and is not tried again as it is."""
        match reason:
            case "unwritable":
                self.stats.add_failed(job.model)
            case "changed":  # without its trigger: once by accident, five times by design
                cause = (
                    "the text changed while it was embedded, without its trigger:"
                    " is the source a function of the row alone?"
                )
                pause = backoff("changed", job.attempts + 1)
                self.fail(job, Failure("changed", cause, pause))
            case _:
                self.stats.add_stale()
        self.leases.let_go([job.lease_key])

    def _complete(
        self, write: Callable[[Sequence[Done]], list[Refusal]], completions: Sequence[Done]
    ) -> None:
        """Write completions, count them, and release the jobs that are refused for now."""
        refused = self._refusals(write, completions)
        released: dict[Release, list[Job]] = defaultdict(list)
        for done in completions:
            reason = refused.get(done.job.id)
            if not reason:
                self._count_completed(done)
            elif release := RELEASED.get(reason):
                released[release].append(done.job)
            else:
                self.refuse(done.job, reason)
        for why, jobs in released.items():
            self.release(jobs, why)

    def _refusals(
        self, write: Callable[[Sequence[Done]], list[Refusal]], completions: Sequence[Done]
    ) -> dict[JobId, RefusalReason]:
        """Write completions, those of locked rows a second time. Return the jobs that were refused,
        and why."""
        refused = self._try_to_write(write, completions)
        locked = [done for done in completions if refused.get(done.job.id) == "locked"]
        if locked:
            self.stop.wait(SECOND_TRY_AFTER)
            for done in locked:
                refused.pop(done.job.id, None)
            refused |= self._try_to_write(write, locked)
        return refused

    def _try_to_write(
        self, write: Callable[[Sequence[Done]], list[Refusal]], completions: Sequence[Done]
    ) -> dict[JobId, RefusalReason]:
        if not completions:
            return {}
        try:
            return {refusal.job_id: refusal.reason for refusal in write(completions)}
        except Busy:
            return {done.job.id: "locked" for done in completions}

    def _count_completed(self, done: Completion | DocumentCompletion) -> None:
        self.stats.add_completed(done.job)
        if isinstance(done, DocumentCompletion):
            self.stats.add_reused(len(done.places) - done.embedded)


def _in_parts(completions: Sequence[Done], bytes_of: Callable[[Done], int]) -> Iterator[list[Done]]:
    """Yield parts of BYTES_AT_ONCE; what is larger is alone."""
    part: list[Done] = []
    room = BYTES_AT_ONCE
    for done in completions:
        size = bytes_of(done)
        if part and size > room:
            yield part
            part, room = [], BYTES_AT_ONCE
        part.append(done)
        room -= size
    if part:
        yield part
