"""Embeds jobs as they become due, until stopped."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import inf
from threading import Event

from worker.chunking.documents import split_document
from worker.embedders.registry import open_chat_model
from worker.engine.pipeline import Pipeline, RunOptions
from worker.engine.progress import Progress, RunStats
from worker.engine.providers import Limiters
from worker.engine.service import CommandThrottle, Service
from worker.engine.throttling import together
from worker.observers.composite import CompositeObserver
from worker.observers.health import Health
from worker.observers.metrics import Metrics, served
from worker.observers.periodic_checks import EveryMinute, OtherModels
from worker.operations.observing import notifying_observer
from worker.operations.processing import embedder_opener, run_options
from worker.operations.scopes import check_models, models_in_use, resolve_scope
from worker.operations.side_work import side_work
from worker.queue import AdminQueue, CallSource, Scope
from worker.settings import Settings
from worker.throttle.load import LoadThrottle


def run_service(
    queue: AdminQueue,
    settings: Settings,
    *,
    stop: Event,
    table: str | None = None,
    column: str | None = None,
    options: RunOptions | None = None,
    log: Progress | None = None,
    observers: Sequence[Progress] = (),
    metrics_port: int | None = None,
    notify_command: str | None = None,
    source: CallSource = "api",
    limiters: Limiters | None = None,
) -> RunStats:
    """Embed jobs as they become due, until `stop` is set. Waits for a database that is out of
    reach.

    With BACKUP_EVERY, it makes backups as well; `source` is where the audit says that they come
    from. `log` and `observers` get all events; `log` also gets the results of notifications.
    `limiters` are given if the queries of this process share them. Raises SettingsError if nothing
    of that name is watched, the metrics cannot be served or no backup can be made, and what a model
    raises if none can be opened.
    """
    scope = _usable_scope(queue, settings, table, column)
    commands = CommandThrottle(queue, scope)
    with _service_observer(
        log, observers, queue, settings, scope, notify_command, metrics_port
    ) as composite:
        pipeline = Pipeline(
            queue=queue,
            open_embedder=embedder_opener(settings),
            open_chat_model=partial(open_chat_model, settings=settings),
            split=split_document,
            scope=scope,
            options=options or run_options(settings),
            progress=composite,
            stop=stop,
            throttle=together([commands, _load_throttle(queue, settings, scope)]),
            reconnect_timeout=inf,
            limiters=limiters,
        )
        with side_work(pipeline, settings, composite, source):
            return _serve(pipeline, commands, settings)


def _usable_scope(
    queue: AdminQueue, settings: Settings, table: str | None, column: str | None
) -> Scope:
    scope = resolve_scope(queue, settings, table, column)
    check_models(settings, models_in_use(queue, scope))
    return scope


@contextmanager
def _service_observer(
    log: Progress | None,
    others: Sequence[Progress],
    queue: AdminQueue,
    settings: Settings,
    scope: Scope,
    command: str | None,
    port: int | None,
) -> Iterator[CompositeObserver]:
    """Yield the observer of a service: those that are given, metrics, and notifications.

    Raises SettingsError if the metrics cannot be served.
    """
    port = port or settings.worker_metrics_port
    metrics, health = Metrics(), Health(settings.embedding_lease_seconds)
    with (
        served(metrics, health, port, settings.worker_metrics_host) if port else nullcontext(),
        notifying_observer(
            log or CompositeObserver(), queue, settings, scope, command
        ) as composite,
    ):
        if port:
            composite.add(metrics)
            composite.add(health)
        for observer in others:
            composite.add(observer)
        composite.add(EveryMinute(queue, composite.event))
        composite.add(OtherModels(queue, scope, composite.event))
        yield composite


ON_THIS_HOST = ("local:", "sentence-transformers:")


def _load_throttle(queue: AdminQueue, settings: Settings, scope: Scope) -> LoadThrottle:
    return LoadThrottle(queue, settings, lambda: _loads_this_host(queue, scope))


def _loads_this_host(queue: AdminQueue, scope: Scope) -> bool:
    """Whether a model in use runs on this machine."""
    return any(model.startswith(ON_THIS_HOST) for model in models_in_use(queue, scope))


def _serve(pipeline: Pipeline, commands: CommandThrottle, settings: Settings) -> RunStats:
    """Work and wait in turns until it is stopped."""
    scope, emit = pipeline.scope, pipeline.progress.event
    emit(
        "worker_started",
        worker=scope.worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        model=scope.default_model,
    )
    Service(pipeline, commands, settings.worker_deep_sleep_after).run()
    stats = pipeline.stats
    done = {"completed": stats.completed, "failed": stats.failed}
    emit("worker_stopped", worker=scope.worker, seconds=stats.elapsed, **done)
    return stats
