"""Decides which targets can be worked on: their model and its provider must be usable."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice

from worker.engine.models import AnyKey, Models, Needs, needs_of
from worker.engine.progress import Progress
from worker.engine.providers import Provider
from worker.errors import WorkerError
from worker.queue import Job, Queue


@dataclass(slots=True)
class Availability:
    """Knows the model of each target with claimed jobs. The circuit breakers of `models` decide the
    rest. Reports to the queue and the observers when a breaker opens or closes.

    A target whose model cannot be used is skipped for the rest of the run. If the run `retries`, it
    is tried again after a pause, with one job.
    """

    models: Models
    queue: Queue
    progress: Progress
    retries: bool = False
    _needs: dict[int, Needs] = field(default_factory=dict)
    """The models of each target, without any of which it has to wait."""
    _reported: dict[str, WorkerError | None] = field(default_factory=dict)
    """By provider: the error last reported to the queue; None: reported as usable."""

    @property
    def errors(self) -> list[tuple[str, WorkerError]]:
        """For each skipped target: the provider or model that failed, and its error."""
        return [
            error for needs in self._needs.values() if (error := self._error_of(needs.required))
        ]

    @property
    def skipped_targets(self) -> set[int]:
        """The targets whose jobs are not claimed now: their model cannot be used, or is busy."""
        return {
            target
            for target, needs in self._needs.items()
            if self._error_of(needs.required) or not all(map(self.models.has_room, needs.used))
        }

    @property
    def due_for_trial(self) -> set[int]:
        """The targets whose model could not be used and may be tried again now."""
        return {target for target, needs in self._needs.items() if self._may_try(needs.required)}

    def enable_retries(self) -> None:
        """From now on, try models that cannot be used again after a pause."""
        self.retries = True

    def add(self, job: Job) -> None:
        """Note the models of the target of a job."""
        self._needs[job.target_id] = needs_of(job)

    def error_of(self, job: Job) -> WorkerError | None:
        """Why a model of a job cannot be used."""
        found = self._error_of(needs_of(job).required)
        return found[1] if found else None

    def has_room(self, job: Job) -> bool:
        """Whether the models of a job accept more."""
        return all(map(self.models.has_room, needs_of(job).used))

    def begin_trial(self, job: Job) -> bool:
        """Let the models of a job be tried again, if their pause is over. Returns whether it is."""
        keys = needs_of(job).required
        may_try = self._may_try(keys)
        if may_try:
            for key in keys:
                self.models.try_again(key)
        return may_try

    def end_trial(self, job: Job) -> None:
        """Try the models again later if their trial ended without an answer or an error."""
        for key in needs_of(job).required:
            self.models.postpone(key)

    def all_but(self, targets: Collection[int]) -> set[int]:
        """Return all known targets except these."""
        return self._needs.keys() - targets

    def postpone(self, targets: Collection[int]) -> None:
        """Try these targets later: there was no job to try them with."""
        for target in targets:
            for key in self._needs[target].required:
                self.models.postpone(key)

    def forget(self, targets: Collection[int]) -> None:
        """Forget these targets: none of their jobs waits for a model."""
        for target in targets:
            del self._needs[target]

    def report_target(self, job: Job) -> None:
        """Report to the observers that the target of a job is skipped, once for each error."""
        open_breakers = (self.models.open_breakers(key) for key in needs_of(job).required)
        for breaker in islice(chain.from_iterable(open_breakers), 1):
            if breaker.is_news_for(job.target_id) and (error := breaker.error):
                where = {"table": job.table_name, "column": job.embedding_column}
                self.progress.event("model_unusable", **where, cause=error.cause, hint=error.hint)

    def report_provider(self, provider: Provider) -> None:
        """Report to the queue whether a provider can be used, and changes to the observers."""
        name, error = provider.name, provider.breaker.error
        before = self._reported.get(name)
        if name in self._reported and error is before:
            return
        self._reported[name] = error
        cause, hint = (error.cause, error.hint) if error else (None, None)
        self.queue.report_provider(name, cause, hint)
        if error and not before:
            self.progress.event("provider_stopped", provider=name, cause=cause, hint=hint)
        elif before and not error:
            self.progress.event("provider_back", provider=name)

    def _error_of(self, keys: Iterable[AnyKey]) -> tuple[str, WorkerError] | None:
        return next(filter(None, map(self.models.error_of, keys)), None)

    def _may_try(self, keys: Iterable[AnyKey]) -> bool:
        """Whether all models that cannot be used may be tried again now."""
        unusable = [key for key in keys if self.models.error_of(key)]
        return self.retries and bool(unusable) and all(map(self.models.may_try, unusable))
