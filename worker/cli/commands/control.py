"""The commands that control workers: `pause`, `resume`, `sleep`, `wake`."""

from __future__ import annotations

from worker.cli.console import out
from worker.cli.environment import load_settings
from worker.cli.options import Worker
from worker.figures import counted
from worker.operations.session import open_queue
from worker.queue import DesiredState

_SENT: dict[DesiredState, str] = {"work": "Resume", "pause": "Pause", "sleep": "Sleep"}


def pause(worker: Worker = None) -> None:
    """Pause workers: they finish their current jobs and claim no more until `worker resume`."""
    _send("pause", worker)


def resume(worker: Worker = None) -> None:
    """Resume paused or sleeping workers."""
    _send("work", worker)


def sleep(worker: Worker = None) -> None:
    """Pause workers and unload their models until `worker wake`."""
    _send("sleep", worker)


def wake(worker: Worker = None) -> None:
    """Resume sleeping or paused workers, like `worker resume`."""
    _send("work", worker)


def _send(desired_state: DesiredState, worker: str | None) -> None:
    with open_queue(load_settings()) as queue:
        count = queue.control(desired_state, worker, source="cli")
    if worker:
        out(f"{_SENT[desired_state]} sent to {worker}.")
    else:
        out(
            f"{_SENT[desired_state]} sent to {counted(count, 'worker')}."
            " It also applies to workers that start later."
        )
