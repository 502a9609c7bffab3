"""`worker process`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from worker.cli.console import dollars, out, out_json, report, say
from worker.cli.estimate import print_forecast
from worker.cli.session import load_settings, queue_of, scope_of
from worker.embedders import open_embedder
from worker.engine.events import sentence
from worker.engine.models import Limits
from worker.engine.patience import until_answered
from worker.engine.pipeline import Pace, Pipeline
from worker.engine.progress import Progress, Tally
from worker.errors import DatabaseError
from worker.queue import OperatorQueue, Scope, Target
from worker.settings import LONGEST_DELAY, MOST_AT_ONCE, Settings

PLAIN_LINE_EVERY = 10.0  # seconds, where there is no terminal

BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        help="Jobs to claim and embed at once (env: EMBEDDING_BATCH_SIZE; default: requests of"
        " 100 texts, claimed by the hundred).",
    ),
]
DelayMs = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=LONGEST_DELAY,
        help="Wait after each batch, which then go one at a time (env: EMBEDDING_DELAY_MS;"
        " default 0: batches overlap).",
    ),
]
Table = Annotated[str | None, typer.Option(help="Only this table.")]
Column = Annotated[str | None, typer.Option(help="Only this embedding column.")]
Limit = Annotated[int | None, typer.Option(min=1, help="End after this many jobs.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Tell rows, tokens, requests, cost and time; call nobody.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def process(
    batch_size: BatchSize = None,
    delay_ms: DelayMs = None,
    table: Table = None,
    column: Column = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Embed what is due, then end with a summary."""
    settings = load_settings()
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
            return int(not report_set_aside(found))
        scope = scope_of(queue, settings, table, column)
        pipeline = run(queue, settings, scope, pace_of(settings, batch_size, delay_ms, limit))
        targets = until_answered(
            lambda: queue.targets(scope.table, scope.column), pipeline.progress, pipeline.stop
        )
    print_summary(pipeline, as_json)
    is_whole = report_set_aside(targets)
    return exit_code(pipeline) or int(not is_whole)


def report_set_aside(targets: Iterable[Target]) -> bool:
    """Tell which columns are set aside, and why. Returns whether none is."""
    set_aside = [target for target in targets if target.problem]
    for target in set_aside:
        report(
            DatabaseError(
                f"column {target.embedding_column} of table {target.table_name} is set aside:"
                f" {target.problem}",
                "Mend the table, then run `worker watch` for the column again.",
            )
        )
    return not set_aside


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


def run(queue: OperatorQueue, settings: Settings, scope: Scope, pace: Pace) -> Pipeline:
    """Drain the scope, with progress on stderr, until done or interrupted."""
    due = queue.count_due(scope)
    total = due if pace.limit is None else min(due, pace.limit)
    with stopped_by_signals() as stop, progress_of(total) as progress:
        pipeline = Pipeline(
            queue=queue,
            open_embedder=lambda model, width: open_embedder(model, width, settings),
            scope=scope,
            pace=pace,
            progress=progress,
            stop=stop,
        )
        pipeline.drain()
    return pipeline


def print_summary(pipeline: Pipeline, as_json: bool) -> None:
    """The result of a run; docs/cli.md is the contract of the JSON."""
    tally = pipeline.tally
    if as_json:
        out_json(
            {
                "processed": tally.processed,
                "completed": tally.completed,
                "unchanged": tally.unchanged,
                "skipped": tally.skipped,
                "dropped": tally.dropped,
                "failed": tally.failed,
                "stale": tally.stale,
                "released": tally.released,
                "success_rate": round(tally.success_rate, 1),
                "elapsed_seconds": round(tally.elapsed, 3),
                "rows_per_second": round(tally.rows_per_second, 1),
                "cached": tally.cached,
                "requests": tally.requests,
                "tokens": tally.tokens,
                "cost": tally.cost,
                "trouble": pipeline.troubles[0].cause if pipeline.troubles else None,
            }
        )
        return
    out("=== PROCESSING SUMMARY ===")
    out(f"Total records processed: {tally.processed}")
    out(f"Total errors: {tally.failed}")
    out(f"Success rate: {tally.success_rate:.1f}%")
    for name, count, meaning in (
        ("Unchanged", tally.unchanged, "had the right vector already"),
        ("Skipped", tally.skipped, "nothing to embed"),
        ("Dropped", tally.dropped, "the record is gone"),
        ("Stale", tally.stale, "edited meanwhile, vector thrown away"),
        ("Handed back", tally.released, "due again later"),
    ):
        if count:
            out(f"{name}: {count} ({meaning})")
    out(f"Elapsed: {tally.elapsed:.1f} s")
    out(f"Rows per second: {tally.rows_per_second:.0f}")
    if tally.cached:
        out(f"From the cache: {tally.cached}")
    if tally.requests:
        out(f"Requests: {tally.requests}")
    if tally.tokens is not None:
        out(f"Tokens: {tally.tokens}")
    if tally.cost is None or tally.cost > 0:
        out(f"Cost: {dollars(tally.cost)}")


def exit_code(pipeline: Pipeline) -> int:
    """The exit code of a run, after telling what went wrong with it."""
    for trouble in {trouble.cause: trouble for trouble in pipeline.troubles}.values():
        report(trouble)
    if pipeline.troubles:
        return pipeline.troubles[0].exit_code
    if pipeline.stop.is_set():
        return 130
    if pipeline.tally.failed:
        say("hint: `worker status` shows why; `worker requeue --failed` tries them once more.")
        return 1
    return 0


@contextmanager
def stopped_by_signals() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set. The second of them leaves at once."""
    stop = Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("stopping: finishing what is under way (once more to leave at once)")

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_of(total: int) -> Iterator[Progress]:
    """A bar on a terminal, and a plain line every so often elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(total)
        return
    with Bar(
        TextColumn("embedding"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} rows/s"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        yield RichProgress(bar, total)


class RichProgress:
    """A bar with percentage, rows a second and the time that remains."""

    def __init__(self, bar: Bar, total: int) -> None:
        self._bar = bar
        self._total = total
        self._task = bar.add_task("embedding", total=total, rate=0.0)

    def update(self, tally: Tally) -> None:
        # More can become due while the run goes on.
        self._bar.update(
            self._task,
            completed=tally.taken,
            total=max(self._total, tally.taken),
            rate=tally.rows_per_second,
        )

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        message = sentence(name, fields)
        self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)


class PlainProgress:
    """A line on stderr at most every PLAIN_LINE_EVERY seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._last = time.monotonic()

    def update(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_LINE_EVERY:
            return
        self._last = now
        total = max(self._total, tally.taken)
        left = (total - tally.taken) / max(tally.taken / tally.elapsed, 1e-9)
        say(
            f"{tally.taken} of {total} ({100 * tally.taken / max(total, 1):.0f}%),"
            f" {tally.rows_per_second:.0f} rows/s, {left:.0f} s left"
        )

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        say(sentence(name, fields))
