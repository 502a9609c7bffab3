"""Claims jobs that wait for a batch, and writes their texts into its input file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.batches.holding import HeldBatch
from worker.batches.input_file import InputFile
from worker.engine.embedding import Outcome, completion_of
from worker.engine.writing import Release
from worker.errors import ProviderRefused, Rejected
from worker.queue import Job

FIRST_CLAIM = 100  # jobs
LARGEST_CLAIM = 1000  # jobs
CHARACTERS_OF_A_CLAIM = 8_000_000  # about; they are in memory at once

ORDINARY = Release("it is embedded without a batch")


def fill(held: HeldBatch, file: InputFile, default_model: str) -> None:
    """Claim jobs until the file is full or none wait.

    Jobs that need no line are completed or fail. Jobs that do not fit wait again. Raises
    Interrupted, LeaseLost, and ProviderRefused if the column has another width than the vectors.
    """
    filling = _Filling(held, file)
    at_once = FIRST_CLAIM
    while not file.is_full:
        held.go_on()
        claim = held.queue.claim_batch_jobs(held.id, held.worker, at_once, default_model)
        if not claim:
            return
        held.stats.add_settled(claim.settled)
        if claim.jobs:
            _check_width(held, claim.jobs[0])
            filling.take_up(claim.jobs)
            characters = sum(len(job.content) for job in claim.jobs)
            fitting = CHARACTERS_OF_A_CLAIM * len(claim.jobs) // max(characters, 1)
            at_once = max(min(2 * at_once, LARGEST_CLAIM, fitting), 1)


def _check_width(held: HeldBatch, job: Job) -> None:
    """Raise ProviderRefused if the column has another width: before anything is paid for."""
    width = held.api.dimensions
    if width is not None and job.dimensions not in (None, width):
        raise ProviderRefused(
            f"{held.api.model} gives {width} dimensions, but {job.embedding_column} of"
            f" {job.table_name} holds {job.dimensions}",
            "Watch a column of that width, or give the target another model.",
            error_class="wrong_width",
            of_the_model=True,
        )


@dataclass(slots=True)
class _Filling:
    held: HeldBatch
    file: InputFile
    _unfit: list[Job] = field(default_factory=list)
    """Jobs that did not fit into the file."""

    def take_up(self, jobs: Sequence[Job]) -> None:
        writer = self.held.writer
        writer.leases.hold(jobs)
        writer.release([job for job in jobs if _goes_ordinarily(job)], ORDINARY)
        batched = [job for job in jobs if not _goes_ordinarily(job)]
        for job in self._without_cached(batched):
            self._add(job)
        self._release_unfit()
        writer.leases.let_go(job.lease_key for job in jobs)
        self.held.observer.update(writer.stats)

    def _without_cached(self, jobs: list[Job]) -> list[Job]:
        """Complete the jobs whose vector is in the cache. Return the others."""
        held = self.held
        width = held.api.dimensions or (jobs[0].dimensions if jobs else None)
        if not (held.options.cache_mb and jobs and width):
            return jobs
        known = held.queue.cached(held.full_model, width, [job.vector_key for job in jobs])
        found = [job for job in jobs if job.vector_key in known]
        held.stats.add_cached(len(found))
        completions = [completion_of(job, *known[job.vector_key], cost=0.0) for job in found]
        held.writer.write(found, Outcome(held.full_model, completions))
        return [job for job in jobs if job.vector_key not in known]

    def _add(self, job: Job) -> None:
        if self.file.is_full:
            self._unfit.append(job)
            return
        try:
            if not self.file.add(job):
                self._unfit.append(job)
        except Rejected as refusal:
            if job.truncate:  # only the ordinary way finds out how much of it fits
                self.held.writer.release([job], ORDINARY)
            else:
                outcome = Outcome(self.held.full_model, rejected=[(job, refusal)])
                self.held.writer.write([job], outcome)

    def _release_unfit(self) -> None:
        if self._unfit:
            ids = [job.id for job in self._unfit]
            self.held.queue.release_batch_jobs(
                self.held.id, self.held.worker, to_wait=True, most=len(ids), job_ids=ids
            )
            self._unfit.clear()


def _goes_ordinarily(job: Job) -> bool:
    """Whether a job cannot be in a batch: its column has changed since it was planned, or its last
    workers died while they held it."""
    return bool(job.chunking or job.enhancement or job.isolated)
