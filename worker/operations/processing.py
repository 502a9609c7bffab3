"""Embeds what is due, once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from threading import Event

from worker.chunking.documents import split_document
from worker.embedders.registry import open_chat_model, open_embedder
from worker.engine.models import OpenEmbedder
from worker.engine.pipeline import Pipeline, RunOptions
from worker.engine.progress import Progress, RunStats
from worker.engine.providers import ProviderLimits
from worker.engine.retrying import until_answered
from worker.engine.service import COMMANDED, CommandThrottle
from worker.engine.stop_conditions import as_end
from worker.engine.throttling import Throttle, together
from worker.errors import WorkerError
from worker.observers.composite import CompositeObserver
from worker.operations.batch_serving import serve_once
from worker.operations.files import FILES
from worker.operations.observing import notifying_observer
from worker.operations.reading import read_files
from worker.operations.scopes import (
    chat_models_in_use,
    check_models,
    models_in_use,
    resolve_scope,
)
from worker.operations.stop_conditions import NONE, StopConditions, refuse_unpriced
from worker.queue import AdminQueue, Scope, Target
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run.

    `errors`: why columns were skipped, one for each. `ended`: why the run ended before all was
    done, if a stop condition or a command ended it. `targets`: the columns of its scope.
    """

    scope: Scope
    stats: RunStats
    errors: list[WorkerError]
    ended: str | None
    was_interrupted: bool
    targets: list[Target]

    @property
    def was_paused(self) -> bool:
        """Whether `worker pause` or `worker sleep` ended it."""
        return self.ended in COMMANDED.values()

    @property
    def did_nothing_for_a_pause(self) -> bool:
        """Whether a pause was in force before the run claimed anything."""
        return self.was_paused and not self.stats.taken


@dataclass(frozen=True, slots=True)
class Processing:
    """One run over the due jobs of a scope."""

    queue: AdminQueue
    settings: Settings
    scope: Scope
    options: RunOptions
    stop_conditions: StopConditions = NONE
    notify_command: str | None = None

    def count_jobs(self) -> int:
        """Count the jobs that the run will claim, as far as is known before it begins."""
        due = self.queue.count_due(self.scope)
        return due if self.options.limit is None else min(due, self.options.limit)

    def estimate_eta(self) -> float | None:
        """Seconds until all is done at the rate of all workers; None if the run does not do all."""
        if self.scope.table or self.scope.column or self.options.limit:
            return None
        try:
            return self.queue.progress().eta_seconds
        except WorkerError:  # the run waits for the database by itself
            return None

    def run(self, stop: Event, observer: Progress) -> RunResult:
        """Work until nothing is due, a stop condition holds, or `stop` is set."""
        queue, scope = self.queue, self.scope
        stats = RunStats()
        with notifying_observer(
            observer, queue, self.settings, scope, self.notify_command
        ) as composite:
            throttles: list[Throttle] = [CommandThrottle(queue, scope)]
            throttles += self.stop_conditions.throttles(queue, scope, composite, stats)
            pipeline = Pipeline(
                queue=queue,
                open_embedder=embedder_opener(self.settings),
                open_chat_model=partial(open_chat_model, settings=self.settings),
                split=split_document,
                scope=scope,
                options=self.options,
                progress=composite,
                stop=stop,
                stats=stats,
                throttle=as_end(together(throttles)),
            )
            if scope.table in (None, FILES):
                read_files(queue, self.settings, stop=stop, observer=composite)
            self._serve_batches(composite, stop)
            pipeline.drain()
        targets = until_answered(lambda: queue.targets(scope.table, scope.column), observer, stop)
        decision = pipeline.decision
        return RunResult(
            scope,
            stats,
            pipeline.errors,
            decision.cause if decision.level == "stop" else None,
            stop.is_set(),
            targets,
        )

    def _serve_batches(self, observer: Progress, stop: Event) -> None:
        """Take the steps of batches that are due, unless workers are paused."""
        queue, scope = self.queue, self.scope

        def serve() -> None:
            if queue.command(scope).desired_state == "work":
                serve_once(queue, self.settings, scope, observer, stop)

        until_answered(serve, observer, stop)


def process(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None = None,
    column: str | None = None,
    options: RunOptions | None = None,
    stop_conditions: StopConditions = NONE,
    stop: Event | None = None,
    observer: Progress | None = None,
) -> RunResult:
    """Embed all due jobs, of every watched column or of those that are named, and return.

    `options` are those of the settings unless they are given. Set `stop` from another thread to end
    the run early. `observer` gets all events. Raises Unreachable if the database stays out of
    reach.
    """
    processing = prepare(
        queue,
        settings,
        table=table,
        column=column,
        options=options or run_options(settings),
        stop_conditions=stop_conditions,
    )
    return processing.run(stop or Event(), observer or CompositeObserver())


def prepare(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None,
    column: str | None,
    options: RunOptions,
    stop_conditions: StopConditions = NONE,
    notify_command: str | None = None,
) -> Processing:
    """Return a run that can begin.

    Raises SettingsError if nothing of that name is watched, or if a limit on the cost makes no
    sense, and what a model raises if none can be opened.
    """
    scope = resolve_scope(queue, settings, table, column)
    models = models_in_use(queue, scope)
    if stop_conditions.dollars is not None:
        refuse_unpriced(settings, models, chat_models_in_use(queue, scope))
    check_models(settings, models)
    return Processing(queue, settings, scope, options, stop_conditions, notify_command)


def embedder_opener(settings: Settings) -> OpenEmbedder:
    """Return what opens the embedders of a run."""
    return lambda model, width, prompt: open_embedder(model, width, settings, prompt)


def run_options(
    settings: Settings,
    batch_size: int | None = None,
    delay_ms: int | None = None,
    limit: int | None = None,
) -> RunOptions:
    """Return these options, and those of the settings where one is None."""
    return RunOptions(
        batch_size=batch_size or settings.embedding_batch_size,
        delay=(settings.embedding_delay_ms if delay_ms is None else delay_ms) / 1000,
        limit=limit,
        grace=settings.embedding_grace_seconds,
        limits=ProviderLimits(
            settings.embedding_max_concurrency, settings.embedding_rpm, settings.embedding_tpm
        ),
        cache_mb=settings.embedding_cache_mb,
        enhancement_cache_mb=settings.enhancement_cache_mb,
    )
