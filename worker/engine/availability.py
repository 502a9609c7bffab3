"""Decides which targets can be worked on: their model and its provider must be usable."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from worker.engine.models import Key, Models, Provider, key_of
from worker.engine.progress import Progress
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
    _keys: dict[int, Key] = field(default_factory=dict)
    _reported: dict[str, WorkerError | None] = field(default_factory=dict)
    """By provider: the error last reported to the queue; None: reported as usable."""

    @property
    def errors(self) -> list[tuple[str, WorkerError]]:
        """For each skipped target: the provider or model that failed, and its error."""
        return [error for key in self._keys.values() if (error := self.models.error_of(key))]

    @property
    def skipped_targets(self) -> set[int]:
        """The targets whose jobs are not claimed now: their model cannot be used, or is busy."""
        return {
            target
            for target, key in self._keys.items()
            if self.models.error_of(key) or not self.models.has_room(key)
        }

    @property
    def due_for_trial(self) -> set[int]:
        """The targets whose model could not be used and may be tried again now."""
        return {target for target, key in self._keys.items() if self._may_try(key)}

    def enable_retries(self) -> None:
        """From now on, try models that cannot be used again after a pause."""
        self.retries = True

    def add(self, job: Job) -> None:
        """Note the model of the target of a job."""
        self._keys[job.target_id] = key_of(job)

    def error_of(self, job: Job) -> WorkerError | None:
        """Why the model of a job cannot be used."""
        found = self.models.error_of(key_of(job))
        return found[1] if found else None

    def has_room(self, job: Job) -> bool:
        """Whether the model of a job accepts more."""
        return self.models.has_room(key_of(job))

    def begin_trial(self, job: Job) -> bool:
        """Let the model of a job be tried again, if its pause is over. Returns whether it is."""
        may_try = self._may_try(key_of(job))
        if may_try:
            self.models.try_again(key_of(job))
        return may_try

    def end_trial(self, job: Job) -> None:
        """Try the model again later if its trial ended without an answer or an error."""
        self.models.postpone(key_of(job))

    def all_but(self, targets: Collection[int]) -> set[int]:
        """Return all known targets except these."""
        return self._keys.keys() - targets

    def postpone(self, targets: Collection[int]) -> None:
        """Try these targets later: there was no job to try them with."""
        for target in targets:
            self.models.postpone(self._keys[target])

    def forget(self, targets: Collection[int]) -> None:
        """Forget these targets: none of their jobs waits for a model."""
        for target in targets:
            del self._keys[target]

    def report_target(self, job: Job) -> None:
        """Report to the observers that the target of a job is skipped, once for each error."""
        for breaker in self.models.open_breakers(key_of(job))[:1]:
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

    def _may_try(self, key: Key) -> bool:
        return self.retries and self.models.may_try(key)
