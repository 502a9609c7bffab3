"""Long work of the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest
from starlette.exceptions import HTTPException

from tests.conftest import eventually
from worker.errors import SettingsError
from worker.web.tasks import MOST_AT_ONCE, REMEMBERED, Task, Tasks


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    tasks = Tasks()
    yield tasks
    tasks.close()


def wait(task: Task) -> None:
    assert task.stop.wait(10)


def test_a_task_ends_and_says_how_far_it_came(tasks: Tasks) -> None:
    def work(task: Task) -> None:
        task.progress = "5 of 5 jobs"

    task = tasks.start("requeue", work)
    eventually(lambda: task.state == "done", 10)
    assert [(each.title, each.progress) for each in tasks.all()] == [("requeue", "5 of 5 jobs")]


def test_a_task_can_be_cancelled_once(tasks: Tasks) -> None:
    task = tasks.start("requeue", wait)
    assert task.state == "running"
    assert tasks.cancel(task.id)
    eventually(lambda: task.state == "cancelled", 10)
    assert not tasks.cancel(task.id)
    assert not tasks.cancel(999)


def test_an_error_is_said_and_a_defect_only_by_its_kind(tasks: Tasks) -> None:
    def refuse(_: Task) -> None:
        raise SettingsError("no such table", "Watch it.")

    def fail(_: Task) -> None:
        raise KeyError("what was in the database")

    refused, failed = tasks.start("one", refuse), tasks.start("other", fail)
    eventually(lambda: (refused.state, failed.state) == ("failed", "failed"), 10)
    assert refused.error == "no such table. Watch it."
    assert failed.error == "a defect: KeyError"


def test_only_so_many_run_at_once_and_running_ones_are_remembered(tasks: Tasks) -> None:
    running = tasks.start("long", wait)
    for _ in range(REMEMBERED + 5):
        short = tasks.start("short", lambda _: None)
        eventually(lambda task=short: task.state == "done", 10)  # type: ignore[misc]
    assert running in tasks.all()
    assert len(tasks.all()) <= REMEMBERED + 2
    for number in range(MOST_AT_ONCE - 1):
        tasks.start(f"long {number}", wait)
    with pytest.raises(HTTPException):
        tasks.start("one too many", wait)
    tasks.cancel(running.id)
    eventually(lambda: running.state == "cancelled", 10)
    ended = Event()
    tasks.start("has room again", lambda _: ended.set())
    assert ended.wait(10)


def test_what_is_being_done_is_not_begun_again(tasks: Tasks) -> None:
    tasks.start("backup", wait)
    with pytest.raises(HTTPException, match="Task 1 does this"):
        tasks.start("backup", wait)


def test_a_task_that_asks_whether_to_go_on_ends_when_it_is_cancelled(tasks: Tasks) -> None:
    def work(task: Task) -> None:
        while True:
            task.go_on("waits for a lock")

    task = tasks.start("swap", work)
    assert tasks.cancel(task.id)
    eventually(lambda: task.state == "cancelled", 10)
    assert (task.progress, task.error) == ("waits for a lock", "")
