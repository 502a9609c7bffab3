"""Goes through the queue in portions, each in a short transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from typing import Protocol, TypeVar

from worker.errors import Busy


class Portion(Protocol):
    """The result of a portion that ends at the job `looked_to` (None: there are no more)."""

    @property
    def looked_to(self) -> int | None: ...


AnyPortion = TypeVar("AnyPortion", bound=Portion)


def portions(call: Callable[[int], AnyPortion], stop: Event | None) -> Iterator[AnyPortion]:
    """Yield the result of `call` for each portion, until there are no more jobs or `stop` is set.

    `call` is given the id of the job after which its portion begins.
    """
    after: int | None = 0
    while after is not None and not is_set(stop):
        try:
            portion = call(after)
        except Busy as locked:
            raise Busy(locked.cause, "Try again when that session is done with it.") from None
        yield portion
        after = portion.looked_to


def is_set(stop: Event | None) -> bool:
    """Whether there is an event that is set."""
    return stop is not None and stop.is_set()
