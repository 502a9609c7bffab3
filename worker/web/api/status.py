"""The state of the columns, and of this server."""

from __future__ import annotations

from worker.operations.status import status as take_snapshot
from worker.web.api.bodies import HealthAnswer, StatusAnswer
from worker.web.api.endpoints import Call


def status(call: Call) -> StatusAnswer:
    """Show the progress of every column, the workers, and what failed."""
    with call.shared.services.queues.lent() as queue:
        return StatusAnswer(**take_snapshot(queue).document())


def health(call: Call) -> HealthAnswer:
    """Say that this process answers."""
    return HealthAnswer()


def readiness(call: Call) -> HealthAnswer:
    """Say that the database can be reached, and its schema fits this version."""
    with call.shared.services.queues.lent() as queue:
        queue.check_schema()
    return HealthAnswer()
