"""Prints an estimate as a table."""

from __future__ import annotations

from dataclasses import asdict

from worker.cli.console import out, out_json, say
from worker.cli.render.tables import out_table
from worker.cli.render.text import NOTHING_WATCHED
from worker.figures import dollars
from worker.operations.estimate import Estimation, Forecast, add_up

NOTHING_DUE = "nothing is due; `worker backfill --dry-run` shows how many rows lack a vector"
NOTHING_LACKS = "no row to enqueue: each has a vector or is in the queue"


def print_forecast(found: Estimation, *, missing: bool, as_json: bool) -> None:
    """Print a line for each column, and hints; `missing`: for the rows that a backfill enqueues."""
    if as_json:
        out_json([asdict(forecast) for forecast in found.forecasts])
    elif not found.targets:
        say(NOTHING_WATCHED)
    elif found.forecasts:
        _print(found.forecasts)
        _hint(found.forecasts, missing)
    elif not any(target.problem for target in found.targets):
        say("hint: these columns are disabled: `enabled` is false in embedding_targets")


def _print(forecasts: list[Forecast]) -> None:
    lines = [*forecasts, add_up(forecasts)] if len(forecasts) > 1 else forecasts
    out_table(
        ["column", "model", "rows", "texts", "tokens", "requests", "cost", "time"],
        [
            (
                line.column,
                line.model,
                line.rows,
                line.texts,
                line.tokens,
                line.requests,
                None if line.cost is None else dollars(line.cost),
                duration(line.seconds),
            )
            for line in lines
        ],
    )
    cost = add_up(forecasts).cost
    out(f"Cost: {'about ' if cost else ''}{dollars(cost)}")


def _hint(forecasts: list[Forecast], missing: bool) -> None:
    """Print hints on zero and missing numbers."""
    if any(forecast.rows is None for forecast in forecasts):
        say("hint: a table without a number of rows cannot be read now")
    elif not any(forecast.rows for forecast in forecasts):
        say("hint: " + (NOTHING_LACKS if missing else NOTHING_DUE))
    if any(forecast.seconds is None and forecast.texts for forecast in forecasts):
        say("hint: the time is not known before the first run with the model")


def duration(seconds: float | None) -> str | None:
    """An estimated time, in one unit."""
    if seconds is None:
        return None
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
