"""`worker monitor`."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from worker.cli.console import NOTHING_WATCHED, aligned, cut, one_line, out, out_json, redraw, say
from worker.cli.durations import span
from worker.cli.process import AsJson
from worker.cli.screen import fitted, sections_of, tinted
from worker.cli.session import load_settings, open_queue
from worker.cli.snapshot import StatusSnapshot, take_snapshot
from worker.errors import Unreachable
from worker.queue import AdminQueue, WorkerStatus
from worker.terminal import is_closed

REMEMBERED = 240  # looks
BLOCKS = "▁▂▃▄▅▆▇█"

Interval = Annotated[
    float,
    typer.Option(
        min=0.1, max=3600, metavar="SECONDS", help="Seconds between two queries of the database."
    ),
]


def monitor(interval: Interval = 1.0, as_json: AsJson = False) -> None:
    """Show live status until q is pressed."""
    console = Console(highlight=False)
    with open_queue(load_settings()) as queue, _ended_by_signals():
        if as_json:
            _repeat(queue, interval, _print_document, time.sleep)
        elif sys.stdout.isatty() and not console.is_dumb_terminal:
            _watch(queue, interval, console)
        else:
            _repeat(queue, interval, _print_line, time.sleep)


class History:
    """What one look after the other found, or did not find."""

    def __init__(self) -> None:
        self.snapshot: StatusSnapshot | None = None
        self.outage: Unreachable | None = None
        self.rates: deque[float | None] = deque(maxlen=REMEMBERED)
        self.waits: deque[float | None] = deque(maxlen=REMEMBERED)
        self._throughput = Throughput()

    def take(self, queue: AdminQueue) -> None:
        """Look once more. A database out of reach is noted, and the last look kept."""
        try:
            self.snapshot, self.outage = take_snapshot(queue), None
        except Unreachable as outage:
            self.outage = outage
            self.rates.append(None)
            self.waits.append(None)
        else:
            self.rates.append(self._throughput.after(self.snapshot))
            self.waits.append(self.snapshot.waiting_for)


class Throughput:
    """How fast workers are, by what each of them says from one heartbeat to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, WorkerStatus] = {}
        self._rates: dict[str, float] = {}

    def after(self, snapshot: StatusSnapshot) -> float | None:
        """Jobs a second of all that are not silent.

        Before one of them has spoken twice: those of `embedding_progress`, None if it knows none.
        """
        for worker in snapshot.workers:
            before = self._seen.get(worker.worker, worker)
            seconds = (worker.seen_at - before.seen_at) / timedelta(seconds=1)
            if seconds > 0:
                jobs = worker.completed + worker.failed - before.completed - before.failed
                self._rates[worker.worker] = max(jobs, 0) / seconds
            self._seen[worker.worker] = worker
        there = {worker.worker for worker in snapshot.workers if not snapshot.is_silent(worker)}
        rates = [rate for name, rate in self._rates.items() if name in there]
        return sum(rates) if rates or not there else snapshot.progress.rows_per_second


def sparkline(values: list[float | None]) -> str:
    """A block for each value, the highest of them full; a gap where nothing is known."""
    most = max((value for value in values if value is not None), default=0) or 1
    return "".join(
        " " if value is None else BLOCKS[round(value / most * (len(BLOCKS) - 1))]
        for value in values
    )


def screen_of(history: History, width: int, height: int) -> list[str]:
    """The lines of the live screen: what goes on, how it was, and a line on this screen itself."""
    lines: list[str] = []
    if history.snapshot:
        curves = _curves(history, width)
        room = height - len(curves) - 3
        sections = sections_of(history.snapshot, width)
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
        ("oldest due", *_extremes(history.waits, span), sparkline(list(history.waits)[-room:])),
    ]
    return aligned(heads, rows, width)


def _extremes(
    values: deque[float | None], told: Callable[[float], str]
) -> tuple[str | None, str | None]:
    known = [value for value in values if value is not None]
    now = values[-1] if values else None
    return None if now is None else told(now), told(max(known)) if known else None


def _foot(history: History) -> str:
    if history.outage:
        since = f", this is of {_clock(history.snapshot.at)}" if history.snapshot else ""
        return f"q quits{since}: {one_line(history.outage.cause, 160)}"
    return f"q quits, {_clock(history.snapshot.at)}" if history.snapshot else "q quits"


def _clock(at: datetime) -> str:
    return f"{at.astimezone():%H:%M:%S}"


def _watch(queue: AdminQueue, interval: float, console: Console) -> None:
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:

        def show(history: History) -> None:
            lines = screen_of(history, console.width, console.height)
            redraw(live, map(tinted, lines))

        _repeat(queue, interval, show, lambda seconds: pressed("q", seconds))


def _repeat(
    queue: AdminQueue,
    interval: float,
    show: Callable[[History], None],
    pause: Callable[[float], bool | None],
) -> None:
    """Look and show, every `interval` seconds, until a pause says that it is enough."""
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


def _print_line(history: History) -> None:
    if history.outage or history.snapshot is None:
        cause = history.outage.cause if history.outage else ""
        say(f"{_clock(datetime.now(UTC))} {one_line(cause, 160)}")
        return
    figures = history.snapshot.figures()
    rate = history.rates[-1]
    out(
        f"{_clock(history.snapshot.at)} pending {figures['pending']}, due {figures['due']},"
        f" oldest for {span(history.snapshot.waiting_for)}, failed {figures['failed']},"
        f" rows/s {'unknown' if rate is None else format(rate, '.0f')},"
        f" workers {figures['workers']}, silent {figures['silent_workers']}"
        + (", paused" if history.snapshot.pauses else "")
    )


def _print_document(history: History) -> None:
    reached = history.snapshot if not history.outage else None
    out_json(
        {
            "at": reached.at if reached else datetime.now(UTC),
            "error": history.outage and history.outage.cause,
            "throughput": history.rates[-1],
            "status": reached and reached.document(),
        }
    )


@contextmanager
def _keys() -> Iterator[Callable[[str, float], bool]]:
    """Keys as they are pressed, unseen: whether one is within so many seconds.

    The terminal is as it was when this ends, however it ends.
    """
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios  # which Windows lacks
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda key, seconds: _is_pressed(terminal, key, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def _no_key(key: str, seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_pressed(terminal: int, key: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while select.select([terminal], [], [], max(until - time.monotonic(), 0))[0]:
        typed = os.read(terminal, 1024)
        if not typed or key.encode() in typed:
            return True
    return False


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does, also where the shell had SIGINT ignored: the terminal is left
    as it was."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
