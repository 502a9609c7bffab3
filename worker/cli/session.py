"""What every command begins with: the settings and a connection."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

from worker.cli.console import say
from worker.database.embedded import default_data_dir, embedded_postgres
from worker.embedders.registry import open_embedder
from worker.errors import SettingsError, WorkerError
from worker.host import give_back_memory
from worker.queue import AdminQueue, Scope
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings, foreign_parameters, read_environment


def load_settings(*, asks_model: bool = False) -> Settings:
    """The settings of this process and of the folder it runs in.

    Raises SettingsError; unless the command `asks_model`, not for what only a model needs.

    Warns of parameters in DATABASE_URL that are those of other programs: they are left out.
    """
    given = read_environment(os.environ, Path(".env"))
    settings = Settings.from_mapping(given, asks_model=asks_model)
    foreign = foreign_parameters(given.get("DATABASE_URL", ""))
    # A log of JSON has lines of JSON only.
    if foreign and settings.worker_log_format == "console":
        say(
            f"warning: DATABASE_URL has parameters of other programs: {', '.join(foreign)}",
            "hint: They are ignored. Remove them from the URL that this worker is given.",
        )
    return settings


def demo_settings() -> Settings:
    """The defaults, and where the data of the embedded Postgres lies.

    Whatever DATABASE_URL and EMBEDDING_MODEL say: sample tables have no business in a real
    database, and a tour is to cost nothing.
    """
    given = read_environment(os.environ, Path(".env"))
    return Settings.from_mapping({"WORKER_DATA_DIR": given.get("WORKER_DATA_DIR", "")})


@contextmanager
def database(settings: Settings) -> Iterator[PostgresQueue]:
    """A connection to the database of the settings; without one, to the embedded Postgres.

    Raises SettingsError where only the Data API is at hand.
    """
    with database_url(settings) as url, PostgresQueue(url, _worker_name()) as queue:
        yield queue


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The URL of the database of the settings; without one, of the embedded Postgres.

    Raises SettingsError where only the Data API is at hand.
    """
    if settings.uses_data_api:
        raise SettingsError(
            "this takes a connection to the database: the Data API changes no schema",
            "Set DATABASE_URL, or do it with the Supabase CLI: `worker init`,"
            " `worker watch … --sql`, `supabase db push`.",
        )
    if settings.database_url:
        yield settings.database_url
    else:
        with embedded_postgres(settings.worker_data_dir or default_data_dir()) as url:
            yield url


@contextmanager
def open_checked_database(settings: Settings) -> Iterator[PostgresQueue]:
    """The same, with the schema checked. Raises SchemaError if it does not fit this worker."""
    with database(settings) as queue:
        queue.check_schema()
        yield queue


@contextmanager
def open_queue(settings: Settings) -> Iterator[AdminQueue]:
    """The queue of the settings, over a connection or over the Data API, with the schema checked.

    Raises SchemaError if it does not fit this worker.
    """
    with open_unchecked_queue(settings) as queue:
        queue.check_schema()
        yield queue


@contextmanager
def open_unchecked_queue(settings: Settings) -> Iterator[AdminQueue]:
    """The same, whatever its schema."""
    if not settings.uses_data_api:
        with database(settings) as queue:
            yield queue
        return
    from worker.queue.data_api import DataApiQueue  # its packages take a second to import

    assert settings.supabase_url is not None
    assert settings.supabase_service_role_key is not None  # or Settings had raised
    with DataApiQueue(
        settings.supabase_url, settings.supabase_service_role_key, _worker_name()
    ) as api:
        yield api


def resolve_scope(
    queue: AdminQueue, settings: Settings, table: str | None, column: str | None
) -> Scope:
    """Whose jobs to work on. Raises SettingsError if nothing of that name is watched."""
    found = queue.targets(table, column)
    return Scope(
        # with letters of chance: in containers, host and pid can be those of another worker
        worker=f"{_worker_name()}:{token_hex(3)}",
        lease=timedelta(seconds=settings.embedding_lease_seconds),
        default_model=settings.embedding_model,
        table=found[0].table_name if table else None,
        column=column,
    )


def models_in_use(queue: AdminQueue, scope: Scope) -> list[str]:
    """The models that a worker uses in a scope; the default one where nothing is watched."""
    default = scope.default_model
    targets = queue.targets(scope.table, scope.column)
    return sorted({target.model or default for target in targets if target.accepts(default)}) or [
        default
    ]


def open_models(queue: AdminQueue, settings: Settings, scope: Scope) -> None:
    """Check that the models in use can be opened, before anything is claimed for them.

    Raises what the first of them raises if none can be opened. If only some cannot, their jobs are
    handed back later, and the log says why.
    """
    models = models_in_use(queue, scope)
    problems = []
    for model in models:
        try:
            open_embedder(model, None, settings).close()
        except WorkerError as problem:
            problems.append(problem)
    if len(problems) == len(models):
        raise problems[0]
    give_back_memory()


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
