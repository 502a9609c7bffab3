"""The commands that show the state of the queue: `status`, `monitor`, `stats`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from worker.cli.conditions import parse_condition
from worker.cli.console import out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.keyboard import keys
from worker.cli.options import AsJson, FailIf, Interval, Since
from worker.cli.render.monitor import print_document, print_line, render_screen
from worker.cli.render.screen import fitted, render_sections
from worker.cli.render.stats import print_stats
from worker.cli.render.text import NOTHING_WATCHED
from worker.cli.signals import ended_by_signals
from worker.operations import stats as recent
from worker.operations.history import History
from worker.operations.session import open_queue
from worker.operations.status import StatusSnapshot
from worker.operations.status import status as take_snapshot
from worker.queue import AdminQueue
from worker.terminal import is_closed

WIDE = 300  # cells, where no terminal sets a limit


def status(fail_if: FailIf = None, as_json: AsJson = False) -> int:
    """Show the progress of every column, the workers, and what failed."""
    conditions = [parse_condition(text) for text in fail_if or ()]
    with open_queue(load_settings()) as queue:
        snapshot = take_snapshot(queue)
    if as_json:
        out_json(snapshot.document())
    else:
        _print(snapshot)
    figures = snapshot.figures()
    held = [condition for condition in conditions if condition.holds(figures)]
    for condition in held:
        say(f"error: {condition.finding(figures)}")
    return int(bool(held))


def _print(snapshot: StatusSnapshot) -> None:
    if not snapshot.columns:
        say(NOTHING_WATCHED)
    if not sys.stdout.isatty():
        for line in fitted(render_sections(snapshot, WIDE), None):
            out(line)
        return
    from worker.cli.render.styled import Console, show, tinted  # not needed for a pipe

    size = shutil.get_terminal_size()
    console = Console(highlight=False)
    for line in fitted(render_sections(snapshot, size.columns), size.lines - 1):
        show(console, tinted(line))


def monitor(interval: Interval = 1.0, as_json: AsJson = False) -> None:
    """Show live status until q is pressed."""
    with open_queue(load_settings()) as queue, ended_by_signals():
        if as_json:
            _repeat(queue, interval, print_document, time.sleep)
        elif not sys.stdout.isatty() or not _watch(queue, interval):
            _repeat(queue, interval, print_line, time.sleep)


def _watch(queue: AdminQueue, interval: float) -> bool:
    """Show a live screen until q is pressed. False if the terminal is too simple for that."""
    from worker.cli.render.styled import Console, live_screen

    console = Console(highlight=False)
    if console.is_dumb_terminal:
        return False
    with keys() as pressed, live_screen(console) as redraw:

        def show(history: History) -> None:
            redraw(render_screen(history, console.width, console.height))

        _repeat(queue, interval, show, lambda seconds: pressed("q", seconds))
    return True


def _repeat(
    queue: AdminQueue,
    interval: float,
    show: Callable[[History], None],
    pause: Callable[[float], bool | None],
) -> None:
    """Take a snapshot and show it, every `interval` seconds, until a pause returns true."""
    history = History()
    due = time.monotonic()
    while True:
        history.take(queue)
        show(history)
        if is_closed(sys.stdout):
            return
        now = time.monotonic()
        due = max(due + interval, now)
        if pause(due - now):
            return


def stats(since: Since = "24h", as_json: AsJson = False) -> None:
    """Show recent work: how much, how fast, at what cost, and what failed."""
    span = recent.parse_since(since)
    with open_queue(load_settings()) as queue:
        found = recent.stats(queue, span)
    print_stats(found, span, as_json=as_json)
