"""`worker stats`: what was done in the last hours."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from worker.cli.console import dollars, one_line, out, out_json, out_table, say
from worker.cli.durations import span_of
from worker.cli.process import AsJson
from worker.cli.session import load_settings, open_queue
from worker.errors import SettingsError
from worker.queue import Stats

LONGEST = timedelta(days=7)  # for so long embedding_usage keeps its minutes
BAR = 30  # characters


def stats(
    since: Annotated[
        str, typer.Option(metavar="DURATION", help="How far back, like 30m, 24h or 7d (the most).")
    ] = "24h",
    as_json: AsJson = False,
) -> None:
    """Show recent work: how much, how fast, at what cost, and what failed."""
    span = span_of(since)
    if span > LONGEST:
        raise SettingsError(
            f"what was done is kept for 7 days: `{since}`", "Write --since 7d or less."
        )
    with open_queue(load_settings()) as queue:
        found = queue.stats(span)
    hours = [_hour(hour) for hour in found.hours]
    if as_json:
        out_json(
            {"since_seconds": span.total_seconds()}
            | asdict(found)
            | {"hours": hours, "failures": [_failure(each) for each in found.failures]}
        )
        return
    _print_totals(found)
    if hours:
        out("")
        _print_hours(hours)
    if found.failures:
        out("")
        _print_failures(found)
    if not found.hours:
        say("hint: nothing was done in that time, or no worker has said so yet")


def _hour(hour: dict[str, Any]) -> dict[str, Any]:
    rate = hour["completed"] / float(hour["seconds"])
    return {
        "hour": hour["hour"],
        "completed": hour["completed"],
        "failed": hour["failed"],
        "rows_per_second": round(rate, 3),
    }


def _failure(failure: dict[str, Any]) -> dict[str, Any]:
    """The same, in the order of the documentation."""
    names = ("error_class", "failed", "latest_message", "latest_at")
    return {name: failure[name] for name in names}


def _print_totals(found: Stats) -> None:
    out(f"Completed: {found.completed}")
    out(f"Failed: {found.failed}")
    out(f"Requests: {found.requests}")
    out(f"Tokens: {found.tokens}")
    out(f"Cost: {dollars(found.cost)}")
    out(f"Request time: {_times(found.request_p50_ms, found.request_p95_ms)}")
    out(f"From due to vector: {_times(found.lag_p50_ms, found.lag_p95_ms)}")


def _times(p50: float | None, p95: float | None) -> str:
    if p50 is None or p95 is None:
        return "unknown"
    return f"p50 {_duration(p50)}, p95 {_duration(p95)}"


def _duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.3g} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _print_hours(hours: list[dict[str, Any]]) -> None:
    most = max(hour["rows_per_second"] for hour in hours)
    out_table(
        ["hour", "completed", "failed", "rows/s", ""],
        [
            (
                f"{datetime.fromisoformat(hour['hour']).astimezone():%Y-%m-%d %H:%M}",
                hour["completed"],
                hour["failed"],
                f"{hour['rows_per_second']:.2f}",
                "#" * round(BAR * hour["rows_per_second"] / most) if most else "",
            )
            for hour in hours
        ],
    )


def _print_failures(found: Stats) -> None:
    out_table(
        ["failed", "class", "latest reason"],
        [
            (failure["failed"], failure["error_class"], one_line(failure["latest_message"], 50))
            for failure in found.failures
        ],
    )
