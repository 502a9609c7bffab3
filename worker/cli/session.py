"""What every command begins with: the settings and a connection."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from worker.errors import SettingsError
from worker.queue import Scope, Target
from worker.queue.embedded import default_data_dir, embedded_postgres
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings, read_environment


def load_settings() -> Settings:
    """The settings of this process and of the folder it runs in. Raises SettingsError."""
    return Settings.load(os.environ)


def demo_settings() -> Settings:
    """The defaults, and where the data of the embedded Postgres lies.

    Whatever DATABASE_URL and EMBEDDING_MODEL say: sample tables have no business in a real
    database, and a tour is to cost nothing.
    """
    given = read_environment(os.environ, Path(".env"))
    return Settings.from_mapping({"WORKER_DATA_DIR": given.get("WORKER_DATA_DIR", "")})


@contextmanager
def database(settings: Settings) -> Iterator[PostgresQueue]:
    """A connection to the database of the settings; without one, to the embedded Postgres."""
    if settings.database_url:
        with PostgresQueue(settings.database_url, _worker_name()) as queue:
            yield queue
    else:
        with (
            embedded_postgres(settings.worker_data_dir or default_data_dir()) as url,
            PostgresQueue(url, _worker_name()) as queue,
        ):
            yield queue


@contextmanager
def queue_of(settings: Settings) -> Iterator[PostgresQueue]:
    """The same, with the schema checked. Raises SchemaError if it does not fit this worker."""
    with database(settings) as queue:
        queue.check_schema()
        yield queue


def scope_of(
    queue: PostgresQueue, settings: Settings, table: str | None, column: str | None
) -> Scope:
    """Whose jobs to work on. Raises SettingsError if nothing of that name is watched."""
    name = queue.table_name(table) if table else None
    targets_in(queue, name, column)
    return Scope(
        worker=_worker_name(),
        lease=timedelta(seconds=settings.embedding_lease_seconds),
        default_model=settings.embedding_model,
        table=name,
        column=column,
    )


def targets_in(queue: PostgresQueue, table: str | None, column: str | None) -> list[Target]:
    """The watched columns of that table and name (None: of any).

    Raises SettingsError if a table or column is given and none is watched by it.
    """
    name = queue.table_name(table) if table else None
    found = [
        target
        for target in queue.targets()
        if name in (None, target.table_name) and column in (None, target.embedding_column)
    ]
    if not found and (table or column):
        what = (
            f"column {column} of table {name}"
            if table and column
            else (f"column {column}" if column else f"table {name}")
        )
        raise SettingsError(
            f"{what} is not watched", "`worker targets` lists what is; `worker watch` adds to it."
        )
    return found


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
