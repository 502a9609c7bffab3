"""Prints statistics of recent work, in lines and tables."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from worker.cli.console import out, out_json, say
from worker.cli.render.tables import out_table
from worker.cli.render.text import one_line
from worker.figures import dollars, milliseconds
from worker.queue import Stats

BAR = 30  # characters


def print_stats(found: Stats, since: timedelta, *, as_json: bool) -> None:
    """Print totals, hours and failures; docs/cli.md is the contract of the JSON."""
    hours = [_hour(hour) for hour in found.hours]
    if as_json:
        out_json(
            {"since_seconds": since.total_seconds()}
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
        say("hint: no work was reported in that time")


def _hour(hour: dict[str, Any]) -> dict[str, Any]:
    rate = hour["completed"] / float(hour["seconds"])
    return {
        "hour": hour["hour"],
        "completed": hour["completed"],
        "failed": hour["failed"],
        "rows_per_second": round(rate, 3),
    }


def _failure(failure: dict[str, Any]) -> dict[str, Any]:
    """A failure with its fields in the order of the documentation."""
    names = ("error_class", "failed", "failed_exact", "latest_message", "latest_at")
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
    return f"p50 {milliseconds(p50)}, p95 {milliseconds(p95)}"


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
            (
                f"{failure['failed']}{'' if failure['failed_exact'] else '+'}",
                failure["error_class"],
                one_line(failure["latest_message"], 50),
            )
            for failure in found.failures
        ],
    )
