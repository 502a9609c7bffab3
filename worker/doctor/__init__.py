"""Checks for common problems, from the outside in: address, connection, schema, models.

The checks inside the database are in its function `diagnose_embeddings`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager

from worker.doctor.address import Network, inspect_address
from worker.doctor.batches import inspect_batches
from worker.doctor.connection import (
    explain_failure,
    inspect_clock,
    inspect_commands,
    inspect_schema,
    inspect_session,
)
from worker.doctor.models import inspect_models
from worker.errors import DatabaseError, SettingsError
from worker.queue import AdminQueue, Finding, Target
from worker.settings import Settings

Open = Callable[[], AbstractContextManager[AdminQueue]]


def examine(settings: Settings, connect: Open, network: Network | None = None) -> Iterator[Finding]:
    """Run all checks, and continue after a problem as far as possible.

    `connect` opens the queue without checking its schema. Problems are yielded, not raised.
    """
    targets = yield from examine_database(settings, connect, network)
    yield from inspect_models(targets, settings)


def examine_database(
    settings: Settings, connect: Open, network: Network | None = None, *, samples: bool = True
) -> Generator[Finding, None, list[Target]]:
    """Run the checks that call no model, likewise. Returns the watched columns that it has seen.

    Without `samples`, those are left out that read texts and many jobs.
    """
    if settings.database_url:
        yield from inspect_address(settings.database_url, network or Network())
    try:
        with connect() as queue:
            yield from inspect_session(queue)
            yield from inspect_clock(queue)
            yield inspect_schema(queue)
            yield from inspect_commands(queue)
            yield from inspect_batches(queue)
            yield from queue.diagnose(samples=samples)
            return queue.targets()
    except (DatabaseError, SettingsError) as problem:
        yield explain_failure(problem)
    return []
