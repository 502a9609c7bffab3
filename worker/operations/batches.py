"""Goes through the queue in batches, each in a short transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from typing import Protocol, TypeVar

from worker.errors import Busy


class Batch(Protocol):
    """The result of a batch that ends at the job `looked_to` (None: there are no more)."""

    @property
    def looked_to(self) -> int | None: ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)


def batches(call: Callable[[int], AnyBatch], stop: Event | None) -> Iterator[AnyBatch]:
    """Yield the result of `call` for each batch, until there are no more jobs or `stop` is set.

    `call` is given the id of the job after which its batch begins.
    """
    after: int | None = 0
    while after is not None and not is_set(stop):
        try:
            batch = call(after)
        except Busy as locked:
            raise Busy(locked.cause, "Try again when that session is done with it.") from None
        yield batch
        after = batch.looked_to


def is_set(stop: Event | None) -> bool:
    """Whether there is an event that is set."""
    return stop is not None and stop.is_set()
