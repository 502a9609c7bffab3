"""One re-embedding: how far it is, what was verified, and its next steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.errors import SettingsError
from worker.figures import counted
from worker.operations import reembed
from worker.operations.reembed_steps import NEXT, Step, checks_of, find_by_id, run_stages, take
from worker.operations.reembed_steps import verify as verify_vectors
from worker.operations.session import connected
from worker.queue import AdminQueue, Finding, Reembedding
from worker.web.screens.base import ROWS, Action, Done, Look, Screen, not_found
from worker.web.screens.reembeddings import PATH, lacks_connection, title_of
from worker.web.tasks import Task

Press = Callable[[Look], Done]


def load(look: Look) -> Mapping[str, Any]:
    """Read a re-embedding, its progress and its steps."""
    found = _find(look)
    events = look.queue.reembedding_events(found)
    return {
        "found": found,
        "progress": look.queue.reembedding_progress(found),
        "usage": look.queue.reembedding_usage(found),
        "old": reembed.old_status(look.queue, found),
        "left_behind": _left_behind(look, found),
        "checks": checks_of(events),
        "events": events[::-1][:ROWS],
        "steps": NEXT[found.state],
        "is_run_here": any(
            task.state == "running" and task.title == title_of(found.named)
            for task in look.services.tasks.all()
        ),
        "lacks_connection": lacks_connection(look),
    }


def _find(look: Look) -> Reembedding:
    found = find_by_id(look.queue, look.number("id") or 0)
    if found is None:
        raise not_found("re-embedding")
    return found


def _left_behind(look: Look, found: Reembedding) -> Sequence[Finding]:
    """Return what may use the old vectors, before they are dropped."""
    if found.state != "swapped" or lacks_connection(look):
        return ()
    return reembed.find_left_behind(connected(look.queue), found)


def _find_open(look: Look, step: Step) -> Reembedding:
    """Return the re-embedding of a form. Raises SettingsError if it does not allow a step: its
    column may be re-embedded again by now."""
    connected(look.queue)
    found = _find(look)
    if step not in NEXT[found.state]:
        raise SettingsError(f"the re-embedding of {found.named} is {found.state} by now")
    return found


def _pause(look: Look) -> Done:
    reembed.pause(connected(look.queue), _find_open(look, "pause"), look.source)
    return Done(_address(look), "done")


def _run(look: Look) -> Done:
    """Go on with the stages that are left."""
    found, settings, source = _find_open(look, "run"), look.services.settings, look.source

    def work(queue: AdminQueue, task: Task) -> None:
        database = connected(queue)
        resumed = reembed.resume(database, found, source)
        ended = run_stages(database, settings, resumed, source, task.stop, task.say)
        task.say(": ".join(filter(None, [ended.state, ended.problem])))

    return look.start(title_of(found.named), work, _address(look))


def _verify(look: Look) -> Done:
    found, settings, source = _find_open(look, "verify"), look.services.settings, look.source

    def work(queue: AdminQueue, task: Task) -> None:
        task.say(verify_vectors(connected(queue), settings, found, source))

    return look.start(f"Verification of {found.named}", work, _address(look))


def _retry_failed(look: Look) -> Done:
    found, source = _find(look), look.source
    connected(look.queue)

    def work(queue: AdminQueue, task: Task) -> None:
        count = reembed.retry_failed(connected(queue), found, source)
        task.say(f"{counted(count, 'job')} pending again")

    return look.start(f"Retry of failed jobs of {found.named}", work, _address(look))


def _taking(step: Step, title: str) -> Press:
    """Return the button for a step that is one transaction, and may wait for a lock."""

    def press(look: Look) -> Done:
        found, source = _find_open(look, step), look.source
        is_renamed = step == "finish" and look.value("rename") is not None

        def work(queue: AdminQueue, task: Task) -> None:
            database = connected(queue)
            taken = take(database, found, step, source, task.go_on)
            if is_renamed:
                taken = reembed.finish(database, taken, source, rename=True, on_wait=task.go_on)
            task.say(taken.state)

        return look.start(f"{title} of {found.named}", work, _address(look))

    return press


def _address(look: Look) -> str:
    return f"{PATH}/{look.number('id')}"


REEMBEDDING = Screen(
    name="reembedding",
    path=f"{PATH}/{{id:int}}",
    title="Re-embedding",
    load=load,
    actions=tuple(
        Action(f"{PATH}/{{id:int}}/{name}", press)
        for name, press in {
            "run": _run,
            "pause": _pause,
            "verify": _verify,
            "retry_failed": _retry_failed,
            "swap": _taking("swap", "Swap"),
            "swap_unverified": _taking("swap_unverified", "Swap"),
            "roll_back": _taking("roll_back", "Rollback"),
            "finish": _taking("finish", "Cleanup"),
            "cancel": _taking("cancel", "Cancellation"),
        }.items()
    ),
)
