"""What goes wrong in practice, looked for from the outside in: address, connection, schema, models.

What the database knows of itself it says by `diagnose_embeddings`, to this room as to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from worker.doctor.address import Network, findings_of_address
from worker.doctor.connection import (
    findings_of_clock,
    findings_of_commands,
    findings_of_session,
    what_is_wrong,
)
from worker.doctor.models import findings_of_models
from worker.errors import DatabaseError, SettingsError
from worker.queue import AdminQueue, Finding
from worker.settings import Settings

Open = Callable[[], AbstractContextManager[AdminQueue]]


def examine(settings: Settings, connect: Open, network: Network | None = None) -> Iterator[Finding]:
    """Look at everything, and go on behind what is wrong as far as that is possible.

    `connect` opens the queue without looking at its schema. Raises nothing of what it looks for.
    """
    if settings.database_url:
        yield from findings_of_address(settings.database_url, network or Network())
    targets = None
    try:
        with connect() as queue:
            yield from findings_of_session(queue)
            yield from findings_of_clock(queue)
            queue.check_schema()
            yield Finding("ok", "schema", "database", "it has the schema of this worker", None)
            yield from findings_of_commands(queue)
            yield from queue.diagnose()
            targets = queue.targets()
    except (DatabaseError, SettingsError) as problem:
        yield what_is_wrong(problem)
    yield from findings_of_models(targets or [], settings)
