"""`worker psql`: a way into the database, above all into the embedded one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import Annotated

import typer

from worker.cli.session import database_url, load_settings
from worker.database.embedded import program
from worker.errors import SettingsError
from worker.settings import without_password

TAKES_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGUMENT", help="What psql takes, like -c 'select 1'."),
]


def psql(arguments: Arguments = None) -> int:
    """Open psql on the database of the settings. Without DATABASE_URL, on the embedded one."""
    psql = shutil.which("psql") or program("psql")
    if not psql:
        raise SettingsError(
            "there is no psql on this machine",
            "Install PostgreSQL's client, or pip install 'embedding-worker[embedded]'.",
        )
    with database_url(load_settings()) as url:
        url, password = without_password(url)
        # In the arguments of a process every user of the machine could read it.
        secret = {"PGPASSWORD": password} if password is not None else {}
        before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for psql
        try:
            return subprocess.run(
                [psql, "--dbname", url, *(arguments or ())],
                env=os.environ | secret,
                check=False,
            ).returncode
        finally:
            signal.signal(signal.SIGINT, before)
