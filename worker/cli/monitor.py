"""`worker monitor`."""

from __future__ import annotations

import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from worker.cli.console import out, out_json, report
from worker.cli.process import AsJson
from worker.cli.progress import span
from worker.cli.screen import (
    Snapshot,
    columns_of,
    cut,
    failures_of,
    pace_of,
    troubles_of,
    workers_of,
)
from worker.cli.session import load_settings, queue_of
from worker.errors import Unreachable
from worker.queue import OperatorQueue

try:
    import termios
    import tty
except ImportError:  # Windows: Ctrl-C ends it
    termios = None  # type: ignore[assignment]

SPARKS = "▁▂▃▄▅▆▇█"
HISTORY = 40  # looks

Interval = Annotated[
    float, typer.Option(min=0.1, max=3600, help="Seconds between two looks at the queue.")
]


@dataclass(slots=True)
class History:
    """Figures of the last looks, for the sparklines."""

    rates: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    _before: tuple[Snapshot, dict[str, int]] | None = None

    def add(self, snapshot: Snapshot) -> None:
        """How many jobs the workers have ended a second since the last look, and how long the
        oldest due job has waited."""
        done = {known.worker: known.completed + known.failed for known in snapshot.workers}
        if self._before:
            before, done_before = self._before
            seconds = max((snapshot.at - before.at).total_seconds(), 0.001)
            news = sum(count - done_before.get(name, 0) for name, count in done.items())
            self.rates.append(max(news, 0) / seconds)
        since = snapshot.progress.oldest_due
        self.waits.append(snapshot.age(since) if since else 0.0)
        self._before = snapshot, done

    def lines(self) -> list[str]:
        """Two sparklines with the latest figure, and the scale."""
        lines = []
        for name, figures, shown in (
            ("rows/s", self.rates, lambda figure: f"{figure:.0f}"),
            ("oldest due", self.waits, span),
        ):
            latest = shown(figures[-1]) if figures else "-"
            most = shown(max(figures, default=0.0))
            lines.append(f"{name:10}  {sparkline(figures):{HISTORY}}  {latest} (most {most})")
        return lines


def sparkline(figures: deque[float]) -> str:
    """A character for each figure, scaled to the largest; nothing at all is the lowest."""
    most = max(figures, default=0.0)
    if not most:
        return SPARKS[0] * len(figures)
    return "".join(SPARKS[round(figure / most * (len(SPARKS) - 1))] for figure in figures)


def monitor(interval: Interval = 1.0, as_json: AsJson = False) -> None:
    """Show the same as `status`, live, until `q` is pressed."""
    with queue_of(load_settings()) as queue:
        if as_json or not sys.stdout.isatty():
            _print_lines(queue, interval, as_json)
        else:
            _show(queue, interval)


def _print_lines(queue: OperatorQueue, interval: float, as_json: bool) -> None:
    while True:
        try:
            snapshot = Snapshot.of(queue)
        except Unreachable as outage:
            report(outage)
        else:
            if as_json:
                out_json(snapshot.as_json() | {"at": snapshot.at})
            else:
                out(plain_line(snapshot))
            sys.stdout.flush()
        time.sleep(interval)


def plain_line(snapshot: Snapshot) -> str:
    """The state of all, in one line."""
    progress = snapshot.progress
    failed = sum(column.failed for column in snapshot.columns)
    at_work = sum(not snapshot.is_silent(known) for known in snapshot.workers)
    return (
        f"{snapshot.at:%Y-%m-%dT%H:%M:%SZ} {progress.pending} pending, {progress.due} due,"
        f" {failed} failed, {pace_of(progress)}, {at_work} workers"
    )


def _show(queue: OperatorQueue, interval: float) -> None:
    """The live screen."""
    console = Console()
    history = History()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                snapshot = Snapshot.of(queue)
            except Unreachable as outage:
                lines = [f"the database does not answer: {outage.cause}", "", "q quits"]
            else:
                history.add(snapshot)
                lines = frame(snapshot, history, console.width, console.height)
            live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            if pressed(interval) == "q":
                return


def frame(snapshot: Snapshot, history: History, width: int, height: int) -> list[str]:
    """What fits a terminal of this size; what does not is counted."""
    fixed = [pace_of(snapshot.progress), *history.lines(), ""]
    foot = f"{snapshot.at.astimezone():%H:%M:%S}  q quits"
    left = height - len(fixed) - 1
    troubles = _fit(troubles_of(snapshot, width) + failures_of(snapshot.failures, width), left // 4)
    left -= len(troubles) + bool(troubles)
    workers = _fit(workers_of(snapshot, width), max(left // 3, 2))
    left -= len(workers) + 1
    columns = _fit(columns_of(snapshot, width), left, a_piece=2)
    parts = [columns, fixed[:-1], workers, troubles]
    joined = "\n\n".join("\n".join(part) for part in parts if part).split("\n")
    lines = [cut(line, width) for line in joined]
    return [*lines[: height - 1], *[""] * (height - 1 - len(lines)), foot]


def _fit(lines: list[str], most: int, a_piece: int = 1) -> list[str]:
    """The first of `lines`, which come by the piece, and how many pieces more there are."""
    most = max(most, a_piece + 1)
    if len(lines) <= most:
        return lines
    shown = (most - 1) // a_piece * a_piece
    return [*lines[:shown], f"… and {(len(lines) - shown) // a_piece} more"]


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Tells, within so many seconds, which key was pressed; without a terminal, none ever is."""
    if termios is None or not sys.stdin.isatty():
        yield _no_key
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield _key
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _key(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
