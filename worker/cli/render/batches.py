"""Batches, what waits for one, and the result of a batch backfill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from worker.cli.console import ProgressLine, out, out_json, say
from worker.cli.render.forecast import NOTHING_LACKS, duration
from worker.cli.render.progress import is_shown
from worker.cli.render.tables import out_table
from worker.cli.render.text import ago, name_of, one_line
from worker.engine.events import sentence
from worker.engine.progress import RunStats
from worker.figures import counted, dollars
from worker.operations.batch_backfill import BatchesLeft, BatchRun
from worker.operations.batch_forecast import BatchForecast
from worker.queue import Batch, BatchBackfill
from worker.terminal import printable

LONGEST_REASON = 100  # cells


class BatchProgress:
    """Prints the events of batches, and from time to time what is left."""

    def __init__(self) -> None:
        self._line = ProgressLine()

    def update(self, stats: RunStats) -> None:
        if stats.processed:
            self._line.say(f"{counted(stats.processed, 'job')} done so far")

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if is_shown(name):
            say(" ".join(sentence(name, fields).split()))


def print_left(left: BatchesLeft) -> None:
    """Say what a batch backfill waits for."""
    batches = counted(len(left.under_way), "batch", "batches")
    say(f"{batches} under way, {counted(left.waiting, 'job')} waiting for one")


def print_result(enqueued: int, run: BatchRun, *, as_json: bool) -> None:
    """Print what was enqueued and done."""
    stats, left = run.stats, run.left
    if as_json:
        out_json(
            {
                "enqueued": enqueued,
                "completed": stats.completed,
                "failed": stats.failed,
                "stale": stats.stale,
                "released": stats.released,
                "under_way": len(left.under_way),
                "waiting": left.waiting,
            }
        )
        return
    out(f"Enqueued: {enqueued}", f"Completed: {stats.completed}", f"Failed: {stats.failed}")
    for name, count in (("Stale", stats.stale), ("Released", stats.released)):
        if count:
            out(f"{name}: {count}")
    if left.under_way or left.waiting:
        out(f"Under way: {counted(len(left.under_way), 'batch', 'batches')}")
        out(f"Waiting: {counted(left.waiting, 'job')}")


def print_comparison(forecasts: Sequence[BatchForecast], *, as_json: bool) -> None:
    """Print two lines for each column: the ordinary way, and batches."""
    if as_json:
        out_json([_as_json(forecast) for forecast in forecasts])
        return
    out_table(
        ["column", "way", "rows", "tokens", "requests", "cost", "time"],
        [line for forecast in forecasts for line in _lines(forecast)],
    )
    if not any(forecast.ordinary.rows for forecast in forecasts):
        say(f"hint: {NOTHING_LACKS}")


def _lines(forecast: BatchForecast) -> list[tuple[object, ...]]:
    ordinary = forecast.ordinary
    column, rows, tokens = ordinary.column, ordinary.rows, ordinary.tokens
    batches = counted(forecast.batches, "batch", "batches")
    return [
        (
            column,
            "ordinary",
            rows,
            tokens,
            ordinary.requests,
            _dollars(ordinary.cost),
            duration(ordinary.seconds),
        ),
        (column, "batches", rows, tokens, batches, _dollars(forecast.cost), "up to 24 h"),
    ]


def _as_json(forecast: BatchForecast) -> dict[str, object]:
    return asdict(forecast.ordinary) | {
        "batches": forecast.batches,
        "batch_cost": forecast.cost,
        "batch_seconds": forecast.seconds,
    }


def _dollars(cost: float | None) -> str | None:
    return None if cost is None else dollars(cost)


def print_batches(batches: Sequence[Batch]) -> None:
    """Print a line for each batch."""
    out_table(
        ["id", "column", "state", "texts", "done", "failed", "stale", "cost", "age", "problem"],
        [
            (
                batch.id,
                name_of(batch),
                _state(batch),
                batch.texts,
                batch.completed,
                batch.failed,
                batch.stale,
                _dollars(batch.cost),
                ago(batch.created_at),
                batch.error_message and one_line(batch.error_message, LONGEST_REASON),
            )
            for batch in batches
        ],
    )


def print_batch(batch: Batch) -> None:
    """Print a line for each thing that is known of a batch."""
    for name, value in asdict(batch).items():
        if value is not None:
            shown = dollars(value) if name == "cost" else value
            out(printable(f"{name}: {shown}"))


def print_waiting(backfills: Sequence[BatchBackfill]) -> None:
    """Say how many jobs wait for a batch, and why they do not get one."""
    for backfill in backfills:
        if not backfill.waiting:
            continue
        say(f"{name_of(backfill)}: {counted(backfill.waiting, 'job')} waiting for a batch")
        if backfill.is_over_budget:
            say_over_budget(backfill)
        elif backfill.error_message:
            say(f"{name_of(backfill)}: {one_line(backfill.error_message, LONGEST_REASON)}")


def say_over_budget(backfill: BatchBackfill) -> None:
    """Say that --max-cost leaves no room, and what to do."""
    say(
        f"{name_of(backfill)}: --max-cost {dollars(backfill.max_cost)} leaves no room for more:"
        f" {dollars(backfill.committed)} are spent or under way",
        "hint: give a higher --max-cost, or `worker batches cancel --waiting`",
    )


def _state(batch: Batch) -> str:
    if batch.cancel_requested_at and batch.ended_at is None:
        return "cancelling"
    return batch.provider_state or batch.state if batch.state == "submitted" else batch.state
