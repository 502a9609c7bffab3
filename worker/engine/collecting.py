"""Collects answers: counts what they cost, and passes their results on to be written."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from worker.embedders.base import cost_of, full_model
from worker.engine.availability import Availability
from worker.engine.cache import VectorCache
from worker.engine.calls import Calls
from worker.engine.documents import Documents
from worker.engine.embedding import Outcome
from worker.engine.in_flight import Answer, InFlight
from worker.engine.models import Key, Model, key_of
from worker.engine.progress import Progress, RunStats
from worker.engine.writing import Writer
from worker.errors import WorkerError
from worker.queue import Chunk, Completion, Job


@dataclass(frozen=True, slots=True)
class Collector:
    """Takes the answers of models, and reports whether the models can be used."""

    in_flight: InFlight
    availability: Availability
    cache: VectorCache
    writer: Writer
    documents: Documents
    stats: RunStats
    progress: Progress

    def collect(self, answers: Iterable[Answer]) -> None:
        """Count and write the results of requests that have ended."""
        for column in _by_column(answers):
            self._collect(column)

    def write_cached(self, model: Model, completions: list[Completion]) -> None:
        """Write vectors of a model that were found in the cache."""
        self.stats.add_cached(len(completions))
        outcome = Outcome(full_model(model.embedder), completions)
        self._write([done.job for done in completions], outcome)

    def write_unsent(self, jobs: Sequence[Job], error: WorkerError) -> None:
        """Write that jobs cannot be sent."""
        outcome = Outcome(jobs[0].model, unfinished=list(jobs), error=error)
        self._destination(jobs).write(jobs, outcome)

    def write_unembedded(self, first: list[Job], outcome: Outcome) -> None:
        """Write the outcome of texts that were taken in, but are not sent to their model."""
        self._write(first, outcome)
        self.availability.report_target(first[0])

    def _collect(self, answers: list[Answer]) -> None:
        model = answers[0].request.model
        outcome = Outcome(full_model(model.embedder))
        for answer in answers:
            outcome.add(answer.outcome)
            self._report_batch(answer)
        first = [job for answer in answers for job in answer.request.jobs]
        self.stats.add_requests(
            first[0].model,
            outcome.requests,
            outcome.tokens,
            cost_of(outcome.tokens, model.embedder.price),
            outcome.calls.times,
        )
        self.cache.keep(outcome.model, outcome.completions)
        self._write(first, outcome)
        if any(answer.request.is_trial for answer in answers):
            self.availability.end_trial(first[0])
        self.availability.report_provider(model.provider)
        self.availability.report_target(first[0])

    def _write(self, first: list[Job], outcome: Outcome) -> None:
        """Write the outcome of these texts, for all jobs that have them."""
        duplicates = self.in_flight.take_out(first)
        jobs = [*first, *chain.from_iterable(duplicates.values())]
        began, completed = time.monotonic(), self.stats.completed
        self._destination(jobs).write(jobs, outcome.shared(duplicates))
        self.progress.update(self.stats)
        self.progress.event(
            "jobs_written",
            **column_of(first[0]),
            jobs=len({job.lease_key for job in jobs}),
            completed=self.stats.completed - completed,
            seconds=time.monotonic() - began,
        )

    def _destination(self, jobs: Sequence[Job]) -> Writer | Documents:
        return self.documents if isinstance(jobs[0], Chunk) else self.writer

    def report_calls(self, operation: str, model: str, job: Job, calls: Calls) -> None:
        """Report the calls of a model for the column of a job."""
        for call in calls.ended:
            fields = column_of(job) | {"model": model} | asdict(call)
            self.progress.event("request_done", operation=operation, **fields)

    def _report_batch(self, answer: Answer) -> None:
        request, outcome = answer.request, answer.outcome
        job = request.jobs[0]
        self.report_calls("embeddings", request.model.embedder.model, job, outcome.calls)
        self.progress.event(
            "batch_done",
            **column_of(job),
            jobs=len({job.lease_key for job in request.jobs}),
            texts=len(request.jobs),
            requests=outcome.requests,
            tokens=outcome.tokens,
            seconds=time.monotonic() - request.began,
        )


def column_of(job: Job | None) -> dict[str, object]:
    """The fields of an event that name the column of a job, which are None without one."""
    return {
        "table": job and job.table_name,
        "column": job and job.embedding_column,
        "model": job and job.model,
    }


def _by_column(answers: Iterable[Answer]) -> Iterable[list[Answer]]:
    """Group requests by column, to write them together: some hold only one text."""
    columns: dict[tuple[int, Key, type[Job]], list[Answer]] = defaultdict(list)
    for answer in answers:
        job = answer.request.jobs[0]
        columns[job.target_id, key_of(job), type(job)].append(answer)
    return columns.values()
