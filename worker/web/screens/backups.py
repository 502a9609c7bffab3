"""Backups: what the database knows of them, and two buttons: make one, and check one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.figures import counted
from worker.operations.backup import BackupRequest, back_up_now, check_now
from worker.queue import AdminQueue
from worker.web.screens.base import Action, Done, Look, Screen, cut
from worker.web.tasks import Task

PATH = "/backups"


def load(look: Look) -> Mapping[str, Any]:
    """Read the backups that the database knows, the latest first."""
    before = look.number("before")
    known = look.queue.backups()[::-1]
    backups, last = cut([each for each in known if before is None or each.id < before])
    return {
        "backups": backups,
        "latest": next((backup for backup in known if backup.state == "complete"), None),
        "next": last and last.id,
        "is_first": before is None,
        "destination": str(BackupRequest.of(look.services.settings).destination),
    }


def _back_up(look: Look) -> Done:
    settings, source = look.services.settings, look.source
    request = BackupRequest.of(settings)

    def work(queue: AdminQueue, task: Task) -> None:
        def say(rows: int, size: int) -> None:
            task.progress = f"{counted(rows, 'vector')}, {size / 1e6:.1f} MB"

        made = back_up_now(queue, settings, request, stop=task.stop, on_progress=say, source=source)
        task.progress = ", ".join([task.progress, made.state, *made.problems.values()])

    return look.start(f"Backup to {request.destination}", work, PATH)


def _check(look: Look) -> Done:
    settings, name = look.services.settings, look.values.get("name", "")

    def work(_: AdminQueue, task: Task) -> None:
        checked = check_now(
            settings, name, on_part=lambda done, parts: task.go_on(f"{done} of {parts} parts")
        )
        task.progress = "; ".join(checked.problems) or "it is as it was written"

    return look.start(f"Check of backup {name[:40]}", work, PATH)


BACKUPS = Screen(
    name="backups",
    path=PATH,
    title="Backups",
    label="Backups",
    load=load,
    actions=(Action("/backups/make", _back_up), Action("/backups/check", _check)),
)
