"""`worker run`."""

from __future__ import annotations

import os
import socket
from math import inf
from typing import Annotated

import typer

from worker.cli.console import say
from worker.cli.process import (
    BatchSize,
    Column,
    DelayMs,
    NotifyCommand,
    Table,
    pace_of,
    stopped_by_signals,
)
from worker.cli.session import load_settings, models_of, queue_of, scope_of
from worker.cli.telling import service_told
from worker.embedders import open_embedder
from worker.engine.gear import together
from worker.engine.pipeline import Pipeline
from worker.engine.service import Orders, Service
from worker.errors import WorkerError
from worker.host import give_back_memory
from worker.load.governor import LoadGovernor
from worker.queue import OperatorQueue, Scope
from worker.settings import Settings

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
    settings = load_settings()
    if not settings.enable_background_embedding:
        say("ENABLE_BACKGROUND_EMBEDDING is false: nothing is done in the background here.")
        say("hint: `worker process` embeds what is due, once.")
        return 0
    is_for_people = settings.worker_log_format == "console"
    with queue_of(settings) as queue, stopped_by_signals(say_so=is_for_people) as stop:
        scope = scope_of(queue, settings, table, column)
        open_models(queue, settings, scope)
        orders = Orders(queue, scope)
        load = LoadGovernor(queue, settings, lambda: works_itself(queue, scope))
        with service_told(queue, settings, scope, notify_command, metrics_port) as audience:
            pipeline = Pipeline(
                queue=queue,
                open_embedder=lambda model, width: open_embedder(model, width, settings),
                scope=scope,
                pace=pace_of(settings, batch_size, delay_ms),
                progress=audience,
                stop=stop,
                govern=together([orders, load]),
                patience=inf,
            )
            serve(pipeline, orders, settings)
    return 0


def open_models(queue: OperatorQueue, settings: Settings, scope: Scope) -> None:
    """Look whether the models in use can be opened, before anything is claimed for them.

    Raises what the first of them raises if none can; of a single one the log tells when its jobs
    come.
    """
    models = models_of(queue, scope)
    problems = []
    for model in models:
        try:
            open_embedder(model, None, settings).close()
        except WorkerError as problem:
            problems.append(problem)
    if len(problems) == len(models):
        raise problems[0]
    give_back_memory()


def works_itself(queue: OperatorQueue, scope: Scope) -> bool:
    """Whether a model in use is a burden to this machine, rather than to somebody else's."""
    return any(model.startswith("local:") for model in models_of(queue, scope))


def serve(pipeline: Pipeline, orders: Orders, settings: Settings) -> None:
    """Work and rest in turns until it is to stop."""
    scope, tell = pipeline.scope, pipeline.progress.event
    tell(
        "worker_started",
        worker=scope.worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        model=scope.default_model,
    )
    Service(pipeline, orders, settings.worker_deep_sleep_after).run()
    tally = pipeline.tally
    done = {"completed": tally.completed, "failed": tally.failed}
    tell("worker_stopped", worker=scope.worker, seconds=tally.elapsed, **done)
