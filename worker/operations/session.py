"""Opens the queue that the settings name, and resolves the names of tables and columns."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

from worker.database.embedded import default_data_dir, embedded_postgres
from worker.errors import SettingsError
from worker.queue import AdminQueue, Target
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings


@contextmanager
def open_database(settings: Settings, *, check_schema: bool = True) -> Iterator[PostgresQueue]:
    """Open the queue over a connection to the database; without one, to the embedded Postgres.

    Raises SettingsError if the settings name only the Data API, and SchemaError if the schema does
    not fit this worker.
    """
    with database_url(settings) as url, PostgresQueue(url, worker_name()) as queue:
        if check_schema:
            queue.check_schema()
        yield queue


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """Yield the URL of the database; without one, of the embedded Postgres, which is started.

    Raises SettingsError if the settings name only the Data API.
    """
    if settings.uses_data_api:
        raise _needs_connection()
    if settings.database_url:
        yield settings.database_url
    else:
        with embedded_postgres(settings.worker_data_dir or default_data_dir()) as url:
            yield url


def connected(queue: AdminQueue) -> PostgresQueue:
    """Return a queue that is over a connection to the database. Raises SettingsError if it is over
    the Data API."""
    if not isinstance(queue, PostgresQueue):
        raise _needs_connection()
    return queue


def _needs_connection() -> SettingsError:
    return SettingsError(
        "this needs a connection to the database: the Data API cannot change the schema",
        "Set DATABASE_URL, or do it with the Supabase CLI: `worker init`,"
        " `worker watch … --sql`, `supabase db push`.",
    )


@contextmanager
def open_queue(settings: Settings, *, check_schema: bool = True) -> Iterator[AdminQueue]:
    """Open the queue over a connection to the database or over the Data API.

    Raises SchemaError if the schema does not fit this worker.
    """
    if not settings.uses_data_api:
        with open_database(settings, check_schema=check_schema) as queue:
            yield queue
        return
    from worker.queue.data_api import DataApiQueue  # its packages take a second to import

    assert settings.supabase_url is not None
    assert settings.supabase_service_role_key is not None  # otherwise Settings would have raised
    with DataApiQueue(
        settings.supabase_url, settings.supabase_service_role_key, worker_name()
    ) as api:
        if check_schema:
            api.check_schema()
        yield api


@dataclass(frozen=True, slots=True)
class Selection:
    """The watched columns that were selected. `table` and `column` are None for any.

    `table` is the name under which the table is watched.
    """

    targets: list[Target]
    table: str | None
    column: str | None


def select(queue: AdminQueue, table: str | None, column: str | None) -> Selection:
    """Find the watched columns of a table, by its name as typed, and of a column name.

    Raises SettingsError if one of them is given and nothing of that name is watched.
    """
    targets = queue.targets(table, column)
    first = targets[0] if targets else None
    return Selection(
        targets,
        first.table_name if first and table else None,
        first.embedding_column if first and column is not None else None,
    )


def worker_name() -> str:
    """The name of this process among those that use the database."""
    return f"{socket.gethostname()}:{os.getpid()}"


def new_worker_name(task: str | None = None) -> str:
    """Return a name for a worker that holds leases, for one kind of `task` if it is given.

    It ends in random characters: in containers, host and pid can be those of another worker.
    """
    return ":".join(filter(None, (worker_name(), task, token_hex(3))))


def has_ended(worker: str) -> bool:
    """Whether a worker, `host:pid:…`, was a process of this host that has ended."""
    host, _, rest = worker.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
