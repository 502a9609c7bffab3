"""The overview: whether all is well, and the switches for all workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.operations.status import status
from worker.queue import DesiredState
from worker.web.screens.base import Action, Done, Look, Screen


def load(look: Look) -> Mapping[str, Any]:
    """Read a snapshot of the queue, its columns and its workers."""
    return {"snapshot": status(look.queue)}


def _command(desired_state: DesiredState, notice: str) -> Action:
    """Return the button that sends a command to all workers."""

    def press(look: Look) -> Done:
        look.queue.control(desired_state, source=look.source)
        return Done("/", notice)

    return Action(f"/workers/all/{desired_state}", press)


def _cancel(look: Look) -> Done:
    id = look.number("id") or 0
    was_running = look.services.tasks.cancel(id)
    return Done(look.back("/"), "cancelled" if was_running else "ended", id)


OVERVIEW = Screen(
    name="overview",
    path="/",
    title="Overview",
    label="Overview",
    load=load,
    actions=(
        _command("work", "resumed"),
        _command("pause", "paused"),
        _command("sleep", "asleep"),
        Action("/tasks/cancel", _cancel),
    ),
)
