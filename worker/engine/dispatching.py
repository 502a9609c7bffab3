"""Turns claimed jobs into requests: opens the model, and leaves out texts that need no request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from worker.engine.availability import Availability
from worker.engine.cache import VectorCache
from worker.engine.collecting import Collector
from worker.engine.in_flight import InFlight, Request, wait_for_result
from worker.engine.models import Model, Models, key_of
from worker.engine.options import RunOptions
from worker.engine.writing import Writer
from worker.errors import WorkerError
from worker.queue import Job


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Sends claimed jobs to their model. Jobs of a model that cannot be used are released."""

    models: Models
    availability: Availability
    in_flight: InFlight
    cache: VectorCache
    collector: Collector
    writer: Writer
    options: RunOptions
    stop: Event
    attend: Callable[[], None]
    """Called while waiting; sends the heartbeat."""

    def dispatch(self, jobs: list[Job]) -> None:
        """Send jobs of one target; only the first, as a trial, if its model could not be used."""
        first = jobs[0]
        self.availability.add(first)
        failure = self.availability.error_of(first)
        if failure and not self.availability.begin_trial(first):
            self._release(jobs, failure)
            return
        if failure:
            self.writer.release(jobs[1:], timedelta(0), "its model is tried with another job")
            jobs = [first]
        try:
            model = self.models.of(
                key_of(first), lambda opening: wait_for_result(opening, self.attend)
            )
        except WorkerError as error:
            self._release(jobs, error)
            return
        if not self._send(model, jobs, is_trial=failure is not None):
            self.availability.end_trial(first)

    def _send(self, model: Model, jobs: list[Job], *, is_trial: bool) -> int:
        """Send the texts that are neither in flight nor cached. Return the number of requests."""
        unknown = self._without_cached(model, self.in_flight.take_in(jobs))
        requests = model.requests(unknown, self.options.texts_a_request)
        for texts in requests:
            self.in_flight.send(Request(model, texts, is_trial), self.stop)
        return len(requests)

    def _without_cached(self, model: Model, jobs: list[Job]) -> list[Job]:
        """Return the jobs whose vector is not in the cache; complete the others."""
        found = self.cache.find(model, jobs)
        if found:
            self.collector.write_cached(model, found)
        known = {done.job.lease_key for done in found}
        return [job for job in jobs if job.lease_key not in known]

    def _release(self, jobs: list[Job], error: WorkerError) -> None:
        self.writer.release_untried(jobs, error)
        self.availability.report_target(jobs[0])
