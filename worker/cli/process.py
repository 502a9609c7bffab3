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
from worker.cli.bounds import NONE, Bounds, percent_of, refuse_unpriced
from worker.cli.console import say
from worker.cli.estimate import print_forecast
from worker.cli.progress import progress_of
from worker.cli.session import load_settings, models_of, open_models, queue_of, scope_of
from worker.cli.summary import exit_code, print_summary, report_unserved
from worker.cli.telling import people_told
from worker.embedders import open_embedder
from worker.engine.bounds import as_end
from worker.engine.gear import Governor, together
from worker.engine.models import Limits
from worker.engine.patience import until_answered
from worker.engine.pipeline import Pace, Pipeline
from worker.engine.progress import Tally
from worker.engine.service import Orders
from worker.errors import WorkerError
from worker.queue import OperatorQueue, Scope
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
    with queue_of(settings) as queue:
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
        scope = scope_of(queue, settings, table, column)
        bounds = Bounds(percent_of(until), max_minutes, max_cost)
        pace = pace_of(settings, batch_size, delay_ms, limit)
        if max_cost is not None:
            refuse_unpriced(settings, models_of(queue, scope))
        open_models(queue, settings, scope)
        pipeline = drain(queue, settings, scope, pace, bounds, notify_command)
        targets = until_answered(
            lambda: queue.targets(scope.table, scope.column), pipeline.progress, pipeline.stop
        )
        advice = [] if as_json else advice_on(pipeline, queue)
    print_summary(pipeline, as_json)
    code_of_targets = report_unserved(targets, settings.embedding_model)
    if not code_of_targets:  # or it has said what to do
        say(*advice)
    return exit_code(pipeline) or code_of_targets


def pace_of(
    settings: Settings, batch_size: int | None, delay_ms: int | None, limit: int | None = None
) -> Pace:
    """What the flags say of the pace, and the settings where they say nothing."""
    return Pace(
        batch_size=batch_size or settings.embedding_batch_size,
        delay=(settings.embedding_delay_ms if delay_ms is None else delay_ms) / 1000,
        limit=limit,
        grace=settings.embedding_grace_seconds,
        limits=Limits(
            settings.embedding_max_concurrency, settings.embedding_rpm, settings.embedding_tpm
        ),
        cache_mb=settings.embedding_cache_mb,
    )


def drain(
    queue: OperatorQueue,
    settings: Settings,
    scope: Scope,
    pace: Pace,
    bounds: Bounds = NONE,
    notify_command: str | None = None,
) -> Pipeline:
    """Drain the scope, with progress on stderr, until done, out of bounds or interrupted."""
    due = queue.count_due(scope)
    total = due if pace.limit is None else min(due, pace.limit)
    tally = Tally()
    with (
        stopped_by_signals() as stop,
        progress_of(
            total, settings.embedding_progress_interval, partial(eta_of, queue, scope, pace)
        ) as bar,
        people_told(bar, queue, settings, scope, notify_command) as progress,
    ):
        governors: list[Governor] = [Orders(queue, scope)]
        governors += bounds.governors(queue, scope, progress, tally)
        pipeline = Pipeline(
            queue=queue,
            open_embedder=lambda model, width: open_embedder(model, width, settings),
            scope=scope,
            pace=pace,
            progress=progress,
            stop=stop,
            tally=tally,
            govern=as_end(together(governors)),
        )
        pipeline.drain()
    return pipeline


def eta_of(queue: OperatorQueue, scope: Scope, pace: Pace) -> float | None:
    """Seconds until all is done at the rate of all workers, where all of it is what is done."""
    if scope.table or scope.column or pace.limit:
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
