"""The settings of this process, and warnings about what has no effect among them."""

from __future__ import annotations

import os
from pathlib import Path

from worker.cli.console import say
from worker.settings import Settings, foreign_parameters, read_environment, unknown_variables


def load_settings(*, asks_model: bool = False) -> Settings:
    """The settings of this process and of the folder it runs in.

    Raises SettingsError; unless the command `asks_model`, not for what only a model needs.

    Warns of unknown variables, and of parameters in DATABASE_URL that are those of other programs:
    they are left out.
    """
    given = _given()
    settings = Settings.from_mapping(given, asks_model=asks_model)
    foreign = foreign_parameters(given.get("DATABASE_URL", ""))
    if foreign and _has_plain_log(given):
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
    return Settings.from_mapping({"WORKER_DATA_DIR": _given().get("WORKER_DATA_DIR", "")})


def _given() -> dict[str, str]:
    """All variables, after a warning about those that look misspelled.

    It comes before they are checked: it may explain what is wrong with the others.
    """
    given = read_environment(os.environ, Path(".env"))
    unknown = unknown_variables(given)
    if unknown and _has_plain_log(given):
        for name, nearest in unknown.items():
            suggestion = f"; did you mean {nearest}?" if nearest else ""
            say(f"warning: unknown variable {name}{suggestion}")
        say("hint: Unknown variables are ignored; docs/configuration.md lists all that are read.")
    return given


def _has_plain_log(given: dict[str, str]) -> bool:
    """Whether stderr may have lines of text: a log of JSON has lines of JSON only."""
    return given.get("WORKER_LOG_FORMAT", "").strip() != "json"
