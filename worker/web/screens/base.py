"""What a screen is, and what it gets to work with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from worker.errors import SettingsError, Unreachable
from worker.queue import AdminQueue, CallSource, from_web
from worker.web.access import Role
from worker.web.services import Services
from worker.web.tasks import Task

ROWS = 50  # of a list on one page

Row = TypeVar("Row")
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a screen, or the press of a button: by whom, and with what.

    `values` are those of the path and the query, or of the form. `address` is that of the browser.
    """

    services: Services
    queue: AdminQueue
    role: Role
    values: Mapping[str, str]
    address: str = ""
    chosen: tuple[str, ...] = ()
    """The values of the boxes of a form that are checked."""

    @property
    def source(self) -> CallSource:
        """Where the audit says that an action comes from."""
        return from_web(self.address) if self.address else "web"

    @property
    def watched(self) -> tuple[str | None, str | None]:
        """The table and the column that a form or an address names; None for any."""
        target = self.value("target")
        if target is None:
            return self.value("table"), self.value("column")
        try:
            match json.loads(target):
                case [str(table), str(column)]:
                    return table, column
        except (ValueError, RecursionError):
            pass
        raise SettingsError(f"this does not name a column: {target[:40]}")

    @property
    def error_class(self) -> str | None:
        """The class of failures that a form or an address names; None for any."""
        return self.value("class")

    def start(
        self,
        title: str,
        work: Callable[[AdminQueue, Task], None],
        otherwise: str,
        progress: str = "",
    ) -> Done:
        """Do long work as a task, with a queue of its own. Go back, or to `otherwise`. `progress`
        is what the task says until it says how far it is."""

        def work_with_a_queue(task: Task) -> None:
            with self.services.queues.lent() as queue:
                work(queue, task)

        task = self.services.tasks.start(title, work_with_a_queue, progress)
        return Done(self.back(otherwise), "started", task.id)

    def back(self, otherwise: str) -> str:
        """Return the address of the page that a form was on, as it says."""
        given = self.values.get("back", "")
        return given if re.match(r"/(?![/\\])", given) else otherwise

    def value(self, name: str) -> str | None:
        """Return a value, None if it is empty or missing."""
        return self.values.get(name) or None

    def given(self, names: Sequence[str]) -> dict[str, str]:
        """Return those of these values that are there: the filter of a list."""
        return {name: value for name in names if (value := self.value(name))}

    def choice(self, name: str, choices: Sequence[Choice]) -> Choice | None:
        """Return a value as one of these. Raises SettingsError if it is none of them."""
        given = self.value(name)
        found = next((each for each in choices if each == given), None)
        if given and not found:
            raise SettingsError(
                f"there is no {name} {given[:40]}", f"One of: {', '.join(choices)}."
            )
        return found

    def number(self, name: str, least: int = 0) -> int | None:
        """Return a value as a whole number. Raises SettingsError if it is none."""
        given = self.value(name)
        if given is None:
            return None
        if not (given.isascii() and given.isdigit() and len(given) <= 18) or int(given) < least:
            raise SettingsError(f"{name} is not a number from {least}: {given[:40]}")
        return int(given)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action: where to go on, and what to say there.

    `notice` is one of pages.NOTICES, `count` a number in it.
    """

    address: str
    notice: str
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Revealed:
    """What an action answers that shows a hidden text: the screen with it, which is not kept up
    to date and has no address of its own."""

    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """A button: the path of its form, and what it does. Only an admin may press it."""

    path: str
    press: Callable[[Look], Done | Revealed]


@dataclass(frozen=True, slots=True)
class Screen:
    """A screen. `load` reads what its template shows, in a few short calls of the queue.

    `is_live`: an open page is kept up to date. Without a `label` it is not in the menu.
    """

    name: str
    path: str
    title: str
    load: Callable[[Look], Mapping[str, Any]]
    label: str | None = None
    actions: tuple[Action, ...] = field(default=())
    is_live: bool = True


@contextmanager
def waiting_for_a_model() -> Iterator[None]:
    """Wait for a model with the queue of a look in hand, which others may need meanwhile.

    Raises Unreachable if somebody else does so.
    """
    if not _waiting.acquire(blocking=False):
        raise Unreachable("another search or preflight waits for its model", "Try again soon.")
    try:
        yield
    finally:
        _waiting.release()


_waiting = Lock()


def cut(found: Sequence[Row]) -> tuple[Sequence[Row], Row | None]:
    """Return the first ROWS, and the last of these if there are more, after which they begin."""
    shown = found[:ROWS]
    return shown, shown[-1] if len(found) > ROWS else None


def names_of_columns(queue: AdminQueue) -> list[str]:
    """Return the columns that can be searched and re-embedded, as people name them."""
    targets = [each for each in queue.targets() if each.is_serving and each.kind == "embed"]
    return [target.public_name for target in targets]


def refuse_reader(role: Role) -> None:
    """Raise HTTPException unless the role is that of somebody who may do everything."""
    if role != "admin":
        raise HTTPException(403, "This token may only look. Log in with the admin token.")


def not_found(what: str) -> HTTPException:
    """The error for something that does not exist."""
    return HTTPException(404, f"There is no such {what}.")
