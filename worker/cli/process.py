"""`worker process`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from types import FrameType
from typing import Annotated

import typer

from worker.cli.advice import advice_on
from worker.cli.console import say
from worker.cli.estimate import print_forecast
from worker.cli.notifications import notifying_observer
from worker.cli.progress import progress_of
from worker.cli.session import load_settings, models_in_use, open_models, open_queue, resolve_scope
from worker.cli.stop_conditions import NONE, StopConditions, parse_percent, refuse_unpriced
from worker.cli.summary import exit_code, print_summary, report_unserved
from worker.embedders.registry import open_embedder
from worker.engine.models import ProviderLimits
from worker.engine.pipeline import Pipeline, RunOptions
from worker.engine.progress import RunStats
from worker.engine.retrying import until_answered
from worker.engine.service import CommandThrottle
from worker.engine.stop_conditions import as_end
from worker.engine.throttling import Throttle, together
from worker.errors import WorkerError
from worker.queue import AdminQueue, Scope
from worker.settings import LONGEST_DELAY, MOST_AT_ONCE, Settings

BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        metavar="N",
        help="Jobs to claim and embed at once (env: EMBEDDING_BATCH_SIZE; default: requests of"
        " 100 texts, claimed by the hundred).",
    ),
]
DelayMs = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=LONGEST_DELAY,
        metavar="MILLISECONDS",
        help="Wait after each batch; batches then run one at a time (env: EMBEDDING_DELAY_MS;"
        " default: 0, batches overlap).",
    ),
]
Table = Annotated[str | None, typer.Option(metavar="TABLE", help="Only this table.")]
Column = Annotated[str | None, typer.Option(metavar="COLUMN", help="Only this embedding column.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after this many jobs.")]
Until = Annotated[
    str | None,
    typer.Option(metavar="PERCENT", help="Stop when this share of rows has vectors, like 50%."),
]
MaxMinutes = Annotated[
    float | None, typer.Option(min=0, metavar="MINUTES", help="Stop after this many minutes.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, metavar="DOLLARS", help="Stop after spending this many US dollars."),
]
NotifyCommand = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Run this shell command at each event that people should know (env: NOTIFY_COMMAND).",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Estimate rows, tokens, requests, cost and time without calling the provider.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def process(
    batch_size: BatchSize = None,
    delay_ms: DelayMs = None,
    table: Table = None,
    column: Column = None,
    limit: Limit = None,
    until: Until = None,
    max_minutes: MaxMinutes = None,
    max_cost: MaxCost = None,
    notify_command: NotifyCommand = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Embed all due jobs, print a summary, and exit."""
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        if dry_run:
            found = print_forecast(
                queue,
                settings,
                table=table,
                column=column,
                missing=False,
                batch_size=batch_size,
                limit=limit,
                as_json=as_json,
            )
            return report_unserved(found, settings.embedding_model)
        scope = resolve_scope(queue, settings, table, column)
        stop_conditions = StopConditions(parse_percent(until), max_minutes, max_cost)
        options = run_options(settings, batch_size, delay_ms, limit)
        if max_cost is not None:
            refuse_unpriced(settings, models_in_use(queue, scope))
        open_models(queue, settings, scope)
        pipeline = drain(queue, settings, scope, options, stop_conditions, notify_command)
        targets = until_answered(
            lambda: queue.targets(scope.table, scope.column), pipeline.progress, pipeline.stop
        )
        advice = [] if as_json else advice_on(pipeline, queue)
    print_summary(pipeline, as_json)
    code_of_targets = report_unserved(targets, settings.embedding_model)
    if not code_of_targets:  # or it has said what to do
        say(*advice)
    return exit_code(pipeline) or code_of_targets


def run_options(
    settings: Settings, batch_size: int | None, delay_ms: int | None, limit: int | None = None
) -> RunOptions:
    """Return the options of the flags, and those of the settings where a flag is missing."""
    return RunOptions(
        batch_size=batch_size or settings.embedding_batch_size,
        delay=(settings.embedding_delay_ms if delay_ms is None else delay_ms) / 1000,
        limit=limit,
        grace=settings.embedding_grace_seconds,
        limits=ProviderLimits(
            settings.embedding_max_concurrency, settings.embedding_rpm, settings.embedding_tpm
        ),
        cache_mb=settings.embedding_cache_mb,
    )


def drain(
    queue: AdminQueue,
    settings: Settings,
    scope: Scope,
    options: RunOptions,
    stop_conditions: StopConditions = NONE,
    notify_command: str | None = None,
) -> Pipeline:
    """Drain the scope, with progress on stderr, until done, out of bounds or interrupted."""
    due = queue.count_due(scope)
    total = due if options.limit is None else min(due, options.limit)
    stats = RunStats()
    with (
        stopped_by_signals() as stop,
        progress_of(
            total,
            settings.embedding_progress_interval,
            partial(estimate_eta, queue, scope, options),
        ) as bar,
        notifying_observer(bar, queue, settings, scope, notify_command) as progress,
    ):
        throttles: list[Throttle] = [CommandThrottle(queue, scope)]
        throttles += stop_conditions.throttles(queue, scope, progress, stats)
        pipeline = Pipeline(
            queue=queue,
            open_embedder=lambda model, width: open_embedder(model, width, settings),
            scope=scope,
            options=options,
            progress=progress,
            stop=stop,
            stats=stats,
            throttle=as_end(together(throttles)),
        )
        pipeline.drain()
    return pipeline


def estimate_eta(queue: AdminQueue, scope: Scope, options: RunOptions) -> float | None:
    """Seconds until all is done at the rate of all workers, where all of it is what is done."""
    if scope.table or scope.column or options.limit:
        return None
    try:
        return queue.progress().eta_seconds
    except WorkerError:  # the run waits for the database by itself
        return None


@contextmanager
def stopped_by_signals(*, say_so: bool = True) -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set. The second of them leaves at once."""
    stop = Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if say_so:
            say("stopping: finishing what is under way (once more to leave at once)")

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
