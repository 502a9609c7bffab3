"""Folders of files, and their files by state, with what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from worker.operations.files import FAILED, retry
from worker.queue import AdminQueue, FileState
from worker.web.screens.base import ROWS, Action, Done, Look, Screen
from worker.web.tasks import Task

PATH = "/files"
STATES: tuple[FileState, ...] = get_args(FileState)


def load(look: Look) -> Mapping[str, Any]:
    """Read the folders, and a page of files, the latest first."""
    folder, before = look.value("folder"), look.number("before")
    state = look.choice("state", STATES)
    page = look.queue.page_files(folder, state, before, ROWS)
    return {
        "folders": look.queue.folders(),
        "files": page.files,
        "next": page.next,
        "is_first": before is None,
        "folder": folder,
        "state_shown": state,
        "states": STATES,
        "failed": FAILED,
    }


def _retry(look: Look) -> Done:
    """Retry one file at once."""
    count = retry(look.queue, look.number("id") or 0, source=look.source)
    return Done(look.back(PATH), "requeued", count)


def _retry_all(look: Look) -> Done:
    source = look.source

    def work(queue: AdminQueue, task: Task) -> None:
        def say(count: int) -> None:
            task.say(f"{count:,} jobs are pending again")

        say(retry(queue, source=source, stop=task.stop, on_batch=say))

    return look.start("Retry of all files that failed", work, PATH)


FILES = Screen(
    name="files",
    path=PATH,
    title="Files",
    label="Files",
    load=load,
    actions=(Action("/files/retry", _retry), Action("/files/retry_all", _retry_all)),
)
