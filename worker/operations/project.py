"""Puts the migrations and settings of this worker into the folder of a Supabase project."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worker.database.migrations import Migration, shipped
from worker.database.project import copy_into
from worker.errors import SettingsError


def copy_migrations(
    project: Path, wanted: Sequence[Migration], *, overwrite: bool = False
) -> list[Path]:
    """Copy the migrations that a project lacks. Returns the new files.

    Raises SettingsError if a copy differs and is not to be overwritten, or cannot be written.
    """
    with _files_of_a_project():
        return copy_into(project, wanted, overwrite)


def add_variables(dotenv: Path) -> int:
    """Append to a `.env` each variable that it does not mention, as a comment. Returns how many."""
    with _files_of_a_project():
        return _add_variables(dotenv)


def others_may_read(file: Path) -> bool:
    """Whether other users of this machine may read a file."""
    with _files_of_a_project():
        return os.name == "posix" and bool(file.stat().st_mode & 0o077)


@contextmanager
def _files_of_a_project() -> Iterator[None]:
    """Raise an error of a file as a SettingsError that names the file."""
    try:
        yield
    except OSError as problem:
        raise SettingsError(
            f"{problem.filename}: {problem.strerror}", "Fix it, then run this again."
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(
            "a file of this project is not written in UTF-8", "Save .env as UTF-8."
        ) from None


def _as_secret(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _add_variables(dotenv: Path) -> int:
    before = dotenv.read_text(encoding="utf-8") if dotenv.exists() else ""
    example = shipped(".env.example").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"^[\s#]*(?:export\s+)?(\w+)\s*=", before, re.M))
    lacking = [
        entry
        for entry, variable in re.findall(r"^((?:# .*\n)+# (\w+)=.*\n)", example, re.M)
        if variable not in mentioned
    ]
    if lacking:
        gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
        # It will hold secrets: a new file is for its owner alone, from the first moment on.
        with open(dotenv, "a", encoding="utf-8", opener=_as_secret) as file:
            file.write(gap + "\n".join(lacking))
    return len(lacking)
