"""`worker run`."""

from __future__ import annotations

import os
import socket
from math import inf
from typing import Annotated

import typer

from worker.cli.console import say
from worker.cli.notifications import service_observer
from worker.cli.process import (
    BatchSize,
    Column,
    DelayMs,
    NotifyCommand,
    Table,
    run_options,
    stopped_by_signals,
)
from worker.cli.session import load_settings, models_in_use, open_models, open_queue, resolve_scope
from worker.embedders.registry import open_embedder
from worker.engine.pipeline import Pipeline
from worker.engine.service import CommandThrottle, Service
from worker.engine.throttling import together
from worker.queue import AdminQueue, Scope
from worker.settings import Settings
from worker.throttle.load import LoadThrottle

MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        metavar="PORT",
        help="Serve metrics for Prometheus at this port (env: WORKER_METRICS_PORT; default: none).",
    ),
]


def run(
    batch_size: BatchSize = None,
    delay_ms: DelayMs = None,
    table: Table = None,
    column: Column = None,
    metrics_port: MetricsPort = None,
    notify_command: NotifyCommand = None,
) -> int:
    """Embed jobs as they become due, until stopped."""
    settings = load_settings(asks_model=True)
    if not settings.enable_background_embedding:
        say("ENABLE_BACKGROUND_EMBEDDING is false: nothing is done in the background here.")
        say("hint: `worker process` embeds what is due, once.")
        return 0
    is_for_people = settings.worker_log_format == "console"
    with open_queue(settings) as queue, stopped_by_signals(say_so=is_for_people) as stop:
        scope = resolve_scope(queue, settings, table, column)
        open_models(queue, settings, scope)
        commands = CommandThrottle(queue, scope)
        load = LoadThrottle(queue, settings, lambda: works_itself(queue, scope))
        with service_observer(queue, settings, scope, notify_command, metrics_port) as observer:
            pipeline = Pipeline(
                queue=queue,
                open_embedder=lambda model, width: open_embedder(model, width, settings),
                scope=scope,
                options=run_options(settings, batch_size, delay_ms),
                progress=observer,
                stop=stop,
                throttle=together([commands, load]),
                reconnect_timeout=inf,
            )
            serve(pipeline, commands, settings)
    return 0


def works_itself(queue: AdminQueue, scope: Scope) -> bool:
    """Whether a model in use is a burden to this machine, rather than to somebody else's."""
    return any(model.startswith("local:") for model in models_in_use(queue, scope))


def serve(pipeline: Pipeline, commands: CommandThrottle, settings: Settings) -> None:
    """Work and rest in turns until it is to stop."""
    scope, tell = pipeline.scope, pipeline.progress.event
    tell(
        "worker_started",
        worker=scope.worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        model=scope.default_model,
    )
    Service(pipeline, commands, settings.worker_deep_sleep_after).run()
    stats = pipeline.stats
    done = {"completed": stats.completed, "failed": stats.failed}
    tell("worker_stopped", worker=scope.worker, seconds=stats.elapsed, **done)
