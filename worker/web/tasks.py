"""Long work that the dashboard has started: it has progress, and can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Lock, Thread
from typing import Literal

from starlette.exceptions import HTTPException

from worker.errors import WorkerError

MOST_AT_ONCE = 2  # fewer than there are queues, which pages need as well
REMEMBERED = 20  # tasks that have ended

State = Literal["running", "done", "cancelled", "failed"]


@dataclass(slots=True)
class Task:
    """Work in a thread. `progress` says how far it is, `error` why it failed."""

    id: int
    title: str
    state: State = "running"
    progress: str = ""
    error: str = ""
    stop: Event = field(default_factory=Event)

    def say(self, progress: str) -> None:
        """Say how far it is."""
        self.progress = progress

    def go_on(self, progress: str) -> None:
        """Say how far it is. Raises Cancelled if it is to end."""
        self.say(progress)
        if self.stop.is_set():
            raise Cancelled

    @property
    def is_stopping(self) -> bool:
        return self.state == "running" and self.stop.is_set()


class Cancelled(Exception):
    """A person has cancelled the task."""


class Tasks:
    """The tasks of this process, the latest first. They end with the process: all work is in short
    steps, so nothing is lost."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._ids = count(1)
        self._lock = Lock()

    def start(self, title: str, work: Callable[[Task], None], progress: str = "") -> Task:
        """Do `work` in a thread. It sets `progress`, which is this until then, and ends soon after
        `stop` is set.

        Raises HTTPException if MOST_AT_ONCE are running, or one with this title.
        """
        with self._lock:
            for task in self._tasks:
                if task.state == "running" and task.title == title:
                    raise HTTPException(429, f"Task {task.id} does this. Wait, or cancel it.")
            if sum(task.state == "running" for task in self._tasks) >= MOST_AT_ONCE:
                raise HTTPException(429, "Too many tasks are running. Wait, or cancel one.")
            task = Task(next(self._ids), title, progress=progress)
            ended = [each for each in self._tasks if each.state != "running"]
            forgotten = ended[REMEMBERED:]
            self._tasks = [task, *(each for each in self._tasks if each not in forgotten)]
        Thread(target=_run, args=(task, work), name=f"task-{task.id}", daemon=True).start()
        return task

    def cancel(self, id: int) -> bool:
        """Let a task end after its current step. False if it is not running."""
        found = next((task for task in self.all() if task.id == id), None)
        if found is None or found.state != "running":
            return False
        found.stop.set()
        return True

    def all(self) -> list[Task]:
        """Return the tasks that are running, and the latest that have ended."""
        with self._lock:
            return list(self._tasks)

    def close(self) -> None:
        """Let all tasks end after their current step."""
        for task in self.all():
            task.stop.set()


def _run(task: Task, work: Callable[[Task], None]) -> None:
    try:
        work(task)
        task.state = "cancelled" if task.stop.is_set() else "done"
    except Cancelled:
        task.state = "cancelled"
    except WorkerError as error:
        task.error = " ".join(filter(None, [f"{error.cause}.", error.hint]))
        task.state = "failed"
    except Exception as error:  # a defect: its message may hold what is in the database
        task.error, task.state = f"a defect: {type(error).__name__}", "failed"
