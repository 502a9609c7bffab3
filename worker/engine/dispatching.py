"""Turns claimed jobs into requests: opens the model, and leaves out texts that need no request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

from worker.engine.availability import Availability
from worker.engine.cache import VectorCache
from worker.engine.collecting import Collector
from worker.engine.enhancing import Enhancer, Ready
from worker.engine.in_flight import InFlight, Request, wait_for_result
from worker.engine.models import Model, Models, key_of
from worker.engine.options import RunOptions
from worker.engine.writing import Release, Writer
from worker.errors import WorkerError
from worker.queue import Job

TRIED_WITH_ANOTHER = Release("its model is tried with another job")


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Sends jobs, and chunks of documents, to their model. If it cannot be used, they are
    released."""

    models: Models
    availability: Availability
    in_flight: InFlight
    cache: VectorCache
    collector: Collector
    enhancer: Enhancer
    writer: Writer
    options: RunOptions
    stop: Event
    attend: Callable[[], None]
    """Called while waiting; sends the heartbeat."""

    def dispatch(self, jobs: list[Job]) -> None:
        """Send jobs of one target; only the first, as a trial, if its model could not be used."""
        jobs, is_trial = self.admit(jobs)
        if jobs:
            self.send(jobs, is_trial=is_trial)

    def admit(self, jobs: list[Job]) -> tuple[list[Job], bool]:
        """Return the jobs of one target that may be sent, and whether as a trial of their model.
        The others are released."""
        first = jobs[0]
        self.availability.add(first)
        failure = self.availability.error_of(first)
        if not failure:
            return jobs, False
        if not self.availability.begin_trial(first):
            self._release(jobs, failure)
            return [], False
        self.writer.release(jobs[1:], TRIED_WITH_ANOTHER)
        return [first], True

    def open(self, jobs: Sequence[Job]) -> Model | None:
        """Return the model of some jobs. None: it cannot be opened, and they are released."""
        try:
            return self.models.of(
                key_of(jobs[0]), lambda opening: wait_for_result(opening, self.attend)
            )
        except WorkerError as error:
            self._release(jobs, error)
            return None

    def send(self, texts: Sequence[Job], *, is_trial: bool) -> None:
        """Send the texts of one target that are neither in flight nor cached, if need be to a chat
        model first."""
        model = self.open(texts)
        if not model:
            return
        first = self.in_flight.take_in(texts)
        if not first:
            self.availability.end_trial(texts[0])
        self.embed(self.enhancer.ask(model, first, is_trial=is_trial))

    def embed(self, ready: Ready) -> None:
        """Send the texts of one target that are not cached."""
        unknown = self._without_cached(ready.model, ready.jobs)
        requests = ready.model.requests(unknown, self.options.texts_a_request)
        for request in requests:
            self.in_flight.send(Request(ready.model, request, ready.is_trial), self.stop)
        if ready.jobs and not requests:
            self.availability.end_trial(ready.jobs[0])

    def _without_cached(self, model: Model, jobs: list[Job]) -> list[Job]:
        """Return the jobs whose vector is not in the cache; complete the others."""
        found = self.cache.find(model, jobs)
        if found:
            self.collector.write_cached(model, found)
        known = {done.job.text_key for done in found}
        return [job for job in jobs if job.text_key not in known]

    def _release(self, jobs: Sequence[Job], error: WorkerError) -> None:
        self.collector.write_unsent(jobs, error)
        self.availability.report_target(jobs[0])
