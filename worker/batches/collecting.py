"""Writes the results of a batch that has ended, in the order in which the provider sends them.

Only results for jobs that the batch still holds are written: those of jobs that were edited,
deleted or completed meanwhile are stale. So a worker that dies in between costs nothing: the next
one reads the files again, and finds what is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from worker.batches.holding import HeldBatch
from worker.embedders.base import Vectors, cost_of
from worker.embedders.batch_api import BatchResult, BatchStatus
from worker.engine.embedding import Outcome, are_usable, completion_of
from worker.errors import ProviderRefused, Rejected
from worker.queue import Completion, Job

RESULTS_AT_ONCE = 200  # a few MB of vectors
NAME_OF_A_JOB = re.compile(r"[1-9]\d{0,17}", re.ASCII)  # what fits into a bigint
NOT_FOUND = "not_found"  # error class of a file that is gone


def collect(held: HeldBatch, status: BatchStatus) -> int | None:
    """Write the results of a batch. Jobs without a result stay with the batch.

    Returns how many tokens the provider counted for all lines, also for those that are stale; None
    if that is not known. Raises ProviderError if a file cannot be read now, Interrupted, LeaseLost.
    """
    tokens = _Tokens()
    for file in filter(None, (status.output_file, status.error_file)):
        try:
            with closing(held.api.results(file)) as lines:
                for results in _in_portions(lines):
                    held.go_on()
                    tokens.add(results)
                    _write(held, results)
        except ProviderRefused as refusal:
            if refusal.error_class != NOT_FOUND:
                raise
            tokens.are_known = False
    return tokens.total if tokens.are_known else None


@dataclass(slots=True)
class _Tokens:
    """Sums the tokens of lines, each once."""

    total: int = 0
    are_known: bool = True
    _seen: set[int] = field(default_factory=set)

    def add(self, results: Mapping[int, BatchResult]) -> None:
        for asked, result in results.items():
            if result.vector is not None and asked not in self._seen:
                self._seen.add(asked)
                self.are_known = self.are_known and result.tokens is not None
                self.total += result.tokens or 0


def delete_files(held: HeldBatch, status: BatchStatus | None) -> None:
    """Delete the files of a batch at the provider. Those that are gone are fine."""
    files = {held.input_file}
    if status:
        files |= {status.input_file, status.output_file, status.error_file}
    for file in sorted(filter(None, files)):
        held.keep()
        held.api.delete_file(file)


def _in_portions(results: Iterable[BatchResult]) -> Iterator[dict[int, BatchResult]]:
    """Yield some results at a time, by the job that each of them names. Of two results of one job,
    the first one counts."""
    portion: dict[int, BatchResult] = {}
    for result in results:
        if NAME_OF_A_JOB.fullmatch(result.custom_id):
            portion.setdefault(int(result.custom_id), result)
        if len(portion) >= RESULTS_AT_ONCE:
            yield portion
            portion = {}
    if portion:
        yield portion


def _write(held: HeldBatch, results: Mapping[int, BatchResult]) -> None:
    """Write the results for the jobs that the batch still holds.

    Jobs whose line failed for now, or has an unusable vector, stay with the batch.
    """
    outcome = Outcome(held.full_model)
    jobs: list[Job] = []
    for asked, job in held.queue.batch_jobs(held.id, list(results)):
        result = results[asked]
        if result.vector is not None and _is_usable(result.vector, job):
            outcome.completions.append(_completion(held, job, result, is_first=job.id == asked))
            jobs.append(job)
        elif isinstance(result.error, Rejected) and not _is_to_be_cut(result.error, job):
            outcome.rejected.append((job, result.error))
            jobs.append(job)
    if held.options.cache_mb and outcome.completions:
        held.queue.cache(held.full_model, _paid(outcome.completions), held.options.cache_mb)
    held.writer.leases.hold(jobs)
    held.writer.write(jobs, outcome)
    held.observer.update(held.stats)


def _completion(held: HeldBatch, job: Job, result: BatchResult, *, is_first: bool) -> Completion:
    """Return the completion of a job. Of jobs with one text, only the first has paid for it."""
    assert result.vector is not None
    tokens = result.tokens if is_first else 0
    return completion_of(job, result.vector, tokens, cost_of(tokens, held.api.price))


def _is_to_be_cut(refusal: Rejected, job: Job) -> bool:
    """Whether the ordinary way embeds the beginning of the text, as much as fits."""
    return refusal.error_class == "too_long" and job.truncate


def _is_usable(vector: Vectors, job: Job) -> bool:
    if job.dimensions not in (None, len(vector)):
        return False
    return bool(are_usable(vector.reshape(1, -1))[0])


def _paid(completions: Sequence[Completion]) -> list[Completion]:
    """Return one completion of each text, with its tokens."""
    return list({done.job.vector_key: done for done in reversed(completions)}.values())
