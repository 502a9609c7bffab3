"""The workers, and the commands for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError
from worker.operations.status import status
from worker.queue import DesiredState
from worker.web.screens.base import Action, Done, Look, Screen


def load(look: Look) -> Mapping[str, Any]:
    """Read what each worker last reported, and the commands that stand."""
    snapshot = status(look.queue)
    return {
        "snapshot": snapshot,
        "workers": sorted(snapshot.workers, key=snapshot.is_silent),
        "commands": {command.worker: command for command in snapshot.commands},
    }


def command(desired_state: DesiredState) -> Action:
    """Return the button that sends a command to one worker."""

    def press(look: Look) -> Done:
        worker = look.value("worker")
        if worker is None:  # which would mean all of them
            raise SettingsError("no worker is named")
        look.queue.control(desired_state, worker, source=look.source)
        return Done("/workers", "commanded")

    return Action(f"/workers/one/{desired_state}", press)


WORKERS = Screen(
    name="workers",
    path="/workers",
    title="Workers",
    label="Workers",
    load=load,
    actions=(command("work"), command("pause"), command("sleep")),
)
