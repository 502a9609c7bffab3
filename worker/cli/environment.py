"""The settings of this process, and warnings about variables that have no effect."""

from __future__ import annotations

import os
from pathlib import Path

from worker.cli.console import say
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
