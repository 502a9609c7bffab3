"""Batches of a Batch API: `backfill --batch-api`, `batches list`, `show`, `cancel`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from threading import Event

from worker.cli.console import ProgressLine, confirmed, out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AllBatches,
    AsJson,
    BatchId,
    BatchIds,
    CancelWaiting,
    Column,
    Table,
    Yes,
)
from worker.cli.render.batches import (
    BatchProgress,
    print_batch,
    print_batches,
    print_comparison,
    print_left,
    print_result,
    print_waiting,
    say_over_budget,
)
from worker.cli.render.text import name_of
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.errors import SettingsError
from worker.figures import counted
from worker.operations import batch_control, batch_planning
from worker.operations.batch_backfill import BatchesLeft, BatchRun, serve_until_done
from worker.operations.batch_forecast import forecast_batches
from worker.operations.scopes import resolve_scope
from worker.operations.session import open_queue
from worker.queue import AdminQueue, Batch, Target
from worker.settings import Settings

LATELY = timedelta(days=1)
STEP = "this step"
QUESTION = "What is left is embedded at the ordinary price, which is twice as high. Cancel?"
GO_ON = "running workers, `worker process` or the same command go on with the batches"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a batch backfill was asked for."""

    table: str | None
    column: str | None
    batch: int
    max_cost: float | None
    detach: bool
    as_json: bool


def backfill_by_batches(settings: Settings, asked: Asked) -> int:
    """Let the rows that lack a vector wait for batches, and serve these until all is done."""
    with open_queue(settings) as queue, stopped_by_signals(STEP) as stop:
        enqueued = _plan_visibly(queue, settings, asked, stop)
        run = serve_until_done(
            queue,
            settings,
            resolve_scope(queue, settings, asked.table, asked.column),
            BatchProgress(),
            stop,
            detach=asked.detach,
            on_look=_WaitingLine().say,
        )
    print_result(enqueued, run, as_json=asked.as_json)
    return _code_of(run, stop)


def forecast(settings: Settings, asked: Asked) -> int:
    """Print what the rows that lack a vector cost in batches, and the ordinary way."""
    with open_queue(settings) as queue:
        found = forecast_batches(
            queue, settings, table=asked.table, column=asked.column, max_cost=asked.max_cost
        )
    print_comparison(found, as_json=asked.as_json)
    return 0


def _plan_visibly(queue: AdminQueue, settings: Settings, asked: Asked, stop: Event) -> int:
    """Enqueue rows, with progress on stderr. Return how many."""
    progress = ProgressLine()

    def show(target: Target, jobs: int) -> None:
        progress.say(f"{name_of(target)}: {counted(jobs, 'row')} so far")

    return batch_planning.plan(
        queue,
        settings,
        table=asked.table,
        column=asked.column,
        max_cost=asked.max_cost,
        batch=asked.batch,
        source="cli",
        stop=stop,
        on_portion=show,
    )


class _WaitingLine:
    """Says what is left whenever that has changed."""

    def __init__(self) -> None:
        self._said: tuple[int, int] | None = None

    def say(self, left: BatchesLeft) -> None:
        figures = len(left.under_way), left.waiting
        if figures != self._said:
            self._said = figures
            print_left(left)


def _code_of(run: BatchRun, stop: Event) -> int:
    """Say how to go on. Return the exit code."""
    for backfill in run.left.over_budget:
        say_over_budget(backfill)
    if stop.is_set():
        say(f"interrupted: {GO_ON}")
        return INTERRUPTED
    if run.left.under_way:
        say(f"hint: {GO_ON}")
    if run.stats.failed:
        say("hint: `worker status` shows why; `worker requeue --failed` tries them again.")
    return int(run.stats.failed > 0)


def list_batches(everything: AllBatches = False, as_json: AsJson = False) -> None:
    """List the batches that are under way or have ended lately, and what waits for one."""
    with open_queue(load_settings()) as queue:
        batch_planning.demand_batches(queue)
        batches = [batch for batch in queue.batches() if everything or _is_recent(batch)]
        backfills = queue.batch_backfills()
    if as_json:
        out_json(
            {
                "batches": [asdict(batch) for batch in batches],
                "backfills": [asdict(backfill) for backfill in backfills],
            }
        )
        return
    if batches:
        print_batches(batches)
    else:
        say("No batches. `worker backfill --batch-api` makes some.")
    print_waiting(backfills)


def show(batch: BatchId, as_json: AsJson = False) -> None:
    """Show all that is known of a batch."""
    with open_queue(load_settings()) as queue:
        found = batch_control.find_batch(queue, batch)
    if as_json:
        out_json(asdict(found))
    else:
        print_batch(found)


def cancel(
    batches: BatchIds = None,
    waiting: CancelWaiting = False,
    table: Table = None,
    column: Column = None,
    yes: Yes = False,
) -> int:
    """Cancel batches: what is done of them is written, the rest is embedded the ordinary way."""
    _check_selection(batches, waiting, table or column)
    settings = load_settings()
    with open_queue(settings) as queue, stopped_by_signals(STEP) as stop:
        batch_planning.demand_batches(queue)
        if not yes and not confirmed(QUESTION):
            raise SettingsError("cancelled: nothing was changed", "Add --yes to skip the question.")
        if waiting:
            jobs = batch_planning.cancel_waiting(
                queue, table=table, column=column, source="cli", stop=stop
            )
            out(f"No longer waiting: {counted(jobs, 'job')}")
        else:
            ids = batches or []
            batch_control.cancel(queue, settings, ids, BatchProgress(), stop, source="cli")
            out(f"Cancelled: {counted(len(ids), 'batch', 'batches')}")
    return INTERRUPTED if stop.is_set() else 0


def _check_selection(batches: list[int] | None, waiting: bool, column: str | None) -> None:
    if not batches and not waiting:
        raise SettingsError(
            "nothing is selected",
            "Give the numbers of batches, or --waiting for the jobs that wait for one.",
        )
    if batches and (waiting or column):
        raise SettingsError(
            "the numbers of batches contradict --waiting, --table and --column",
            "Use only one of them.",
        )


def _is_recent(batch: Batch) -> bool:
    return batch.ended_at is None or datetime.now(UTC) - batch.ended_at < LATELY
