"""Checks connection, schema, columns and models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from worker.doctor import examine, examine_database
from worker.operations.session import open_queue
from worker.queue import AdminQueue, Finding
from worker.settings import Settings


def diagnose(settings: Settings) -> list[Finding]:
    """Check everything that can be checked. Each finding has a level, and a hint if it needs one.

    Problems are returned, not raised. Calls each model once, with a text of one letter.
    """
    return list(examine(settings, lambda: open_queue(settings, check_schema=False)))


def diagnose_database(
    settings: Settings, connect: Callable[[], AbstractContextManager[AdminQueue]]
) -> list[Finding]:
    """Check what needs no call of a model and no texts, over a queue that `connect` opens.

    It takes a fraction of a second, however long the queue is.
    """
    return list(examine_database(settings, connect, samples=False))
