"""The settings of this process, and warnings about what has no effect among them."""

from __future__ import annotations

import os
from pathlib import Path

from worker.cli.console import say
from worker.settings import Settings, foreign_parameters, read_environment, unknown_variables


def load_settings(*, asks_model: bool = False) -> Settings:
    """Read the settings of this process and of the folder it runs in.

    Raises SettingsError. What only a model needs is checked only if the command `asks_model`.
    Warns about unknown variables, and about parameters of other programs in DATABASE_URL: they are
    ignored.
    """
    given = _given()
    settings = Settings.from_mapping(given, asks_model=asks_model)
    foreign = foreign_parameters(given.get("DATABASE_URL", ""))
    if foreign and _has_plain_log(given):
        say(
            f"warning: DATABASE_URL has parameters of other programs: {', '.join(foreign)}",
            "hint: They are ignored. Remove them from DATABASE_URL.",
        )
    return settings


def demo_settings() -> Settings:
    """Return the default settings, with only WORKER_DATA_DIR from the environment.

    DATABASE_URL and EMBEDDING_MODEL are ignored: the demo must not create sample tables in a real
    database, nor cost anything.
    """
    return Settings.from_mapping({"WORKER_DATA_DIR": _given().get("WORKER_DATA_DIR", "")})


def _given() -> dict[str, str]:
    """Read all variables, and warn about unknown ones.

    The warning comes before the check of their values: it may explain an error.
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
    """Whether text may be written to stderr: a JSON log must contain only JSON."""
    return given.get("WORKER_LOG_FORMAT", "").strip() != "json"
