"""`worker status`."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from worker.cli.conditions import Condition
from worker.cli.console import NOTHING_WATCHED, out, out_json, say
from worker.cli.process import AsJson
from worker.cli.screen import (
    Snapshot,
    columns_of,
    failures_of,
    pace_of,
    troubles_of,
    workers_of,
)
from worker.cli.session import load_settings, queue_of

WIDTH = 80  # characters, of what is aligned
MOST = 160  # characters of a reason, where there is no terminal

FailIf = Annotated[
    list[str] | None,
    typer.Option(help="Exit with 1 if this holds, like 'oldest_due > 5m'. May be repeated."),
]


def status(fail_if: FailIf = None, as_json: AsJson = False) -> int:
    """Show how far every watched column is, who is at work, and what is wrong."""
    conditions = [Condition.of(written) for written in fail_if or []]
    with queue_of(load_settings()) as queue:
        snapshot = Snapshot.of(queue)
    if as_json:
        out_json(snapshot.as_json())
    else:
        _print(snapshot)
    holding = [condition.told(snapshot) for condition in conditions if condition.holds(snapshot)]
    for told in holding:
        say(f"error: {told}")
    return int(bool(holding))


def _print(snapshot: Snapshot) -> None:
    width = min(shutil.get_terminal_size().columns, MOST) if sys.stdout.isatty() else MOST
    if not snapshot.columns:
        say(NOTHING_WATCHED)
    parts = [columns_of(snapshot, min(width, WIDTH))] if snapshot.columns else []
    if snapshot.columns or snapshot.workers:
        parts += [[pace_of(snapshot.progress)], workers_of(snapshot, width)]
    parts += [failures_of(snapshot.failures, width), troubles_of(snapshot, width)]
    if any(parts):
        out("\n\n".join("\n".join(part) for part in parts if part))
