"""Shows the progress of the build of an index: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Live
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from worker.cli.console import ProgressLine, out, say
from worker.durations import format_duration
from worker.errors import SessionMissing
from worker.reembedding.indexing import IndexProgress
from worker.terminal import printable

Show = Callable[[IndexProgress], None]


@contextmanager
def script_without_session() -> Iterator[None]:
    """Print what psql can run, if a build lacks a session of its own."""
    try:
        yield
    except SessionMissing as missing:
        out(*missing.script)
        raise


@contextmanager
def show_build() -> Iterator[Show]:
    """Show a line that changes on a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainBuild().show
        return
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Live(*columns, console=console, transient=True) as live:
        task = live.add_task("")
        yield lambda progress: live.update(task, description=describe(progress))


class _PlainBuild:
    """A line every few seconds, and one for each session that the build waits for."""

    def __init__(self) -> None:
        self._line = ProgressLine()
        self._waits_for: str | None = None

    def show(self, progress: IndexProgress) -> None:
        if progress.waits_for and progress.waits_for != self._waits_for:
            say(describe(progress))
        else:
            self._line.say(describe(progress))
        self._waits_for = progress.waits_for


def describe(progress: IndexProgress) -> str:
    """The state of a build, on one line."""
    phase = progress.phase or "preparing"
    if progress.waits_for:
        phase = phase if phase.startswith("waiting") else f"{phase}, waiting"
        return printable(f"{phase}: {progress.waits_for} has a transaction open or holds a lock")
    parts = [phase]
    if progress.fraction is not None:
        parts.append(f"{int(progress.fraction * 100)}%")
    if progress.remaining is not None:
        parts.append(f"{format_duration(progress.remaining)} remaining in this phase")
    return printable(", ".join(parts))
