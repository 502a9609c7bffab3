"""Which targets can be worked on, because their model and its provider can be used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from worker.engine.models import Key, Models, Provider, key_of
from worker.engine.progress import Progress
from worker.errors import WorkerError
from worker.queue import Job, Queue


@dataclass(slots=True)
class Availability:
    """Knows the model of each target of which jobs were claimed, and derives everything else from
    the circuit breakers of `models`. Tells the queue and the observers when they open and close.

    A target whose model cannot be used is left alone for the rest of the run, or, if the run
    `retries`, for a pause: then it is tried with one job.
    """

    models: Models
    queue: Queue
    progress: Progress
    retries: bool = False
    _keys: dict[int, Key] = field(default_factory=dict)
    _reported: dict[str, WorkerError | None] = field(default_factory=dict)
    """By provider: the error that the queue knows of; None: it knows that there is none."""

    @property
    def errors(self) -> list[tuple[str, WorkerError]]:
        """For each target that is left alone: the provider or model that is to blame, and why."""
        return [error for key in self._keys.values() if (error := self.models.error_of(key))]

    @property
    def left_alone(self) -> set[int]:
        """The targets of which nothing is claimed now: their model cannot be used, or is busy."""
        return {
            target
            for target, key in self._keys.items()
            if self.models.error_of(key) or not self.models.has_room(key)
        }

    @property
    def due_for_trial(self) -> set[int]:
        """The targets whose model could not be used, and may be tried again now."""
        return {target for target, key in self._keys.items() if self._may_try(key)}

    def enable_retries(self) -> None:
        """Try models that cannot be used again after a pause, from now on."""
        self.retries = True

    def add(self, job: Job) -> None:
        """Learn the model of the target of a job."""
        self._keys[job.target_id] = key_of(job)

    def error_of(self, job: Job) -> WorkerError | None:
        """Why the model of a job cannot be used."""
        found = self.models.error_of(key_of(job))
        return found[1] if found else None

    def begin_trial(self, job: Job) -> bool:
        """Let the model of a job be tried again, if its pause is over. Returns whether it is."""
        may_try = self._may_try(key_of(job))
        if may_try:
            self.models.try_again(key_of(job))
        return may_try

    def end_trial(self, job: Job) -> None:
        """If a trial has brought neither an answer nor an error, try the model again later."""
        self.models.postpone(key_of(job))

    def all_but(self, targets: Collection[int]) -> set[int]:
        """All targets that are known, except these."""
        return self._keys.keys() - targets

    def postpone(self, targets: Collection[int]) -> None:
        """Try these targets later: there was no job to try them with."""
        for target in targets:
            self.models.postpone(self._keys[target])

    def forget(self, targets: Collection[int]) -> None:
        """Know nothing of these targets: none of their jobs waits for a model."""
        for target in targets:
            del self._keys[target]

    def report_target(self, job: Job) -> None:
        """Tell the observers if the target of a job is left alone: once for each error."""
        for breaker in self.models.open_breakers(key_of(job))[:1]:
            if breaker.is_news_for(job.target_id) and (error := breaker.error):
                where = {"table": job.table_name, "column": job.embedding_column}
                self.progress.event("model_unusable", **where, cause=error.cause, hint=error.hint)

    def report_provider(self, provider: Provider) -> None:
        """Tell the queue whether a provider can be used, and the observers if that has changed."""
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
