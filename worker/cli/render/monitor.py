"""Shows snapshots one after another: as a screen, as lines, or as JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from worker.cli.console import out, out_json, say
from worker.cli.render.screen import fitted, render_sections
from worker.cli.render.tables import aligned
from worker.cli.render.text import NOTHING_WATCHED, cut, one_line
from worker.durations import format_duration
from worker.operations.history import History

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float | None]) -> str:
    """A block for each value, the highest of them full; a gap where nothing is known."""
    most = max((value for value in values if value is not None), default=0) or 1
    return "".join(
        " " if value is None else BLOCKS[round(value / most * (len(BLOCKS) - 1))]
        for value in values
    )


def render_screen(history: History, width: int, height: int) -> list[str]:
    """Return the lines of the live screen: curves, the status, and a footer."""
    lines: list[str] = []
    if history.snapshot:
        curves = _curves(history, width)
        room = height - len(curves) - 3
        sections = render_sections(history.snapshot, width)
        lines = [*curves, "", *(fitted(sections, room) or [cut(NOTHING_WATCHED, width)])]
    return [*lines[: height - 2], "", cut(_foot(history), width)]


def _curves(history: History, width: int) -> list[str]:
    heads = ["", "now", "most", "before"]
    room = max(width - 40, 8)
    rows = [
        (
            "throughput",
            *_extremes(history.rates, "{:.0f}".format),
            sparkline(list(history.rates)[-room:]),
        ),
        (
            "oldest due",
            *_extremes(history.waits, format_duration),
            sparkline(list(history.waits)[-room:]),
        ),
    ]
    return aligned(heads, rows, width)


def _extremes(
    values: deque[float | None], as_text: Callable[[float], str]
) -> tuple[str | None, str | None]:
    known = [value for value in values if value is not None]
    now = values[-1] if values else None
    return None if now is None else as_text(now), as_text(max(known)) if known else None


def _foot(history: History) -> str:
    if history.outage:
        since = f", as of {_clock(history.snapshot.at)}" if history.snapshot else ""
        return f"q quits{since}: {one_line(history.outage.cause, 160)}"
    return f"q quits, {_clock(history.snapshot.at)}" if history.snapshot else "q quits"


def _clock(at: datetime) -> str:
    return f"{at.astimezone():%H:%M:%S}"


def print_line(history: History) -> None:
    """Print a snapshot on one line."""
    if history.outage or history.snapshot is None:
        cause = history.outage.cause if history.outage else ""
        say(f"{_clock(datetime.now(UTC))} {one_line(cause, 160)}")
        return
    figures = history.snapshot.figures()
    rate = history.rates[-1]
    out(
        f"{_clock(history.snapshot.at)} pending {figures['pending']}, due {figures['due']},"
        f" oldest for {format_duration(history.snapshot.waiting_for)}, failed {figures['failed']},"
        f" rows/s {'unknown' if rate is None else format(rate, '.0f')},"
        f" workers {figures['workers']}, silent {figures['silent_workers']}"
        + (", paused" if history.snapshot.pauses else "")
    )


def print_document(history: History) -> None:
    """Print a snapshot as JSON; docs/cli.md is the contract."""
    reached = history.snapshot if not history.outage else None
    out_json(
        {
            "at": reached.at if reached else datetime.now(UTC),
            "error": history.outage and history.outage.cause,
            "throughput": history.rates[-1],
            "status": reached and reached.document(),
        }
    )
