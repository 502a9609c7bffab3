"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from worker.cli.console import say
from worker.cli.render.styled import show
from worker.cli.render.text import block_bar
from worker.durations import format_duration
from worker.engine.events import EVENTS, sentence
from worker.engine.progress import Progress, RunStats

SHOWN_AFTER_THE_RUN = ("provider_stopped", "model_unusable", "throttle_changed", "target_reached")
LINE_AFTER = 60.0  # seconds, if a step takes longer than that
BAR = 30  # cells
QUIET_FOR = 10.0  # seconds; a shorter run needs only its summary


Eta = Callable[[], float | None]
"""Seconds until all is done at the rate of all workers together; None if unknown."""


@contextmanager
def show_progress(total: int, interval: int, eta: Eta = lambda: None) -> Iterator[Progress]:
    """Show a bar on a terminal, else a plain line every `interval` percent of `total` jobs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(total, interval, eta)
        return
    with Bar(
        TextColumn("embedding"),
        TextColumn("{task.fields[bar]}", style="green", markup=False),
        TextColumn("{task.fields[percent]:>3}%"),
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
        self._task = bar.add_task("embedding", total=total, **_fields(RunStats(), total))

    def update(self, stats: RunStats) -> None:
        # More can become due while the run goes on.
        total = max(self._total, stats.processed)
        self._bar.update(
            self._task, completed=stats.processed, total=total, **_fields(stats, total)
        )

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if is_shown(name):
            show(self._bar.console, Text(" ".join(sentence(name, fields).split())))


class PlainProgress:
    """A line on stderr at every `interval` percent, and at least every LINE_AFTER seconds."""

    def __init__(self, total: int, interval: int, eta: Eta = lambda: None) -> None:
        self._total = total
        self._interval = interval
        self._eta = eta
        self._step = 0
        self._last = time.monotonic()

    def update(self, stats: RunStats) -> None:
        now = time.monotonic()
        total = max(self._total, stats.processed)
        percent = _percent(stats, total)
        step = percent // self._interval
        is_early = stats.elapsed < QUIET_FOR
        if is_early or (step <= self._step and now - self._last < LINE_AFTER):
            return
        self._step, self._last = step, now
        of_all = self._eta()
        left = remaining(stats, total) if of_all is None else format_duration(of_all)
        say(
            f"{percent}%: {stats.processed} of {total}, {stats.rows_per_second:.0f} rows/s,"
            f" {format_duration(stats.elapsed)} elapsed, {left} remaining"
        )

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if is_shown(name):
            say(" ".join(sentence(name, fields).split()))


def _percent(stats: RunStats, total: int) -> int:
    """The percentage, rounded down: 100 only when all is done."""
    return 100 * stats.processed // max(total, 1)


def _fields(stats: RunStats, total: int) -> dict[str, Any]:
    percent = _percent(stats, total)
    return {
        "bar": block_bar(percent, BAR),
        "percent": percent,
        "rate": stats.rows_per_second,
    }


def is_shown(event: str) -> bool:
    """Whether an event is shown during a run."""
    return EVENTS[event][0] != "debug" and event not in SHOWN_AFTER_THE_RUN


def remaining(stats: RunStats, total: int) -> str:
    """The time that the rest takes at the rate so far; `unknown` before the first job."""
    if stats.processed >= total:
        return format_duration(0)
    if not stats.processed:
        return "unknown"
    return format_duration((total - stats.processed) * stats.elapsed / stats.processed)
