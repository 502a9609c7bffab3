"""Checks connection, schema, columns and models."""

from __future__ import annotations

from worker.doctor import examine
from worker.operations.session import open_queue
from worker.queue import Finding
from worker.settings import Settings


def diagnose(settings: Settings) -> list[Finding]:
    """Check everything that can be checked. Each finding has a level, and a hint if it needs one.

    Problems are returned, not raised. Calls each model once, with a text of one letter.
    """
    return list(examine(settings, lambda: open_queue(settings, check_schema=False)))
