"""`worker status`."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer
from rich.console import Console

from worker.cli.conditions import condition_of
from worker.cli.console import NOTHING_WATCHED, out, out_json, say, show
from worker.cli.process import AsJson
from worker.cli.screen import fitted, sections_of, tinted
from worker.cli.session import load_settings, open_queue
from worker.cli.snapshot import StatusSnapshot, take_snapshot

WIDE = 300  # cells, where no terminal sets a limit

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="Exit with 1 if this holds, like 'oldest_due > 5m'. May be given several times.",
    ),
]


def status(fail_if: FailIf = None, as_json: AsJson = False) -> int:
    """Show the progress of every column, the workers, and what failed."""
    conditions = [condition_of(text) for text in fail_if or ()]
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
        for line in fitted(sections_of(snapshot, WIDE), None):
            out(line)
        return
    size = shutil.get_terminal_size()
    console = Console(highlight=False)
    for line in fitted(sections_of(snapshot, size.columns), size.lines - 1):
        show(console, tinted(line))
