"""The commands that steer workers from anywhere: `pause`, `resume`, `sleep`, `wake`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.console import out
from worker.cli.session import load_settings, queue_of
from worker.queue import Wish

Worker = Annotated[
    str | None, typer.Option("--worker", help="Only this worker, by its name in `worker status`.")
]


def pause(worker: Worker = None) -> None:
    """Let workers finish what is under way, and claim nothing until `worker resume`."""
    _tell("pause", worker)


def resume(worker: Worker = None) -> None:
    """Let paused or sleeping workers go on."""
    _tell("work", worker)


def sleep(worker: Worker = None) -> None:
    """Let workers pause and give their memory back, until `worker wake`."""
    _tell("sleep", worker)


def wake(worker: Worker = None) -> None:
    """Let sleeping or paused workers go on: the same as `worker resume`."""
    _tell("work", worker)


def _tell(wish: Wish, worker: str | None) -> None:
    with queue_of(load_settings()) as queue:
        out(f"Workers told: {queue.control(wish, worker)}")
