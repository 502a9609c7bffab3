"""The copies of this worker's migrations in the folder of a Supabase project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from worker.database.migrations import COPY_PREFIX, Migration
from worker.errors import SettingsError

MIGRATIONS = Path("supabase/migrations")
VERSION = "%Y%m%d%H%M%S"


def as_in_project(project: Path, wanted: Sequence[Migration]) -> list[Migration]:
    """Return the migrations; those that the project has copied, by version and name of the copy."""
    copies = _copies(project)
    return [
        replace(migration, version=_version(copies[migration.copy_name]), name=migration.copy_name)
        if migration.copy_name in copies
        else migration
        for migration in wanted
    ]


def copy_into(project: Path, wanted: Sequence[Migration], overwrite: bool) -> list[Path]:
    """Copy what a project lacks, with versions after all of its own. Return the new files.

    Existing copies are found by name. Raises SettingsError, and copies nothing, if a copy differs
    and `overwrite` is false.
    """
    if not (project / "supabase").is_dir():
        raise SettingsError(
            f"there is no folder supabase in {project}",
            "Name the folder of your project, or create one: supabase init",
        )
    copies = _copies(project)
    contents = _new_contents(project / MIGRATIONS, wanted, copies)
    differing = [path for path in contents if path in copies.values()]
    if differing and not overwrite:
        raise SettingsError(
            f"these copies differ from this worker's: {', '.join(str(path) for path in differing)}",
            "`worker init --force` overwrites them. It changes no database.",
        )
    for path, sql in contents.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(sql, encoding="utf-8")
    return list(contents)


def _new_contents(
    folder: Path, wanted: Sequence[Migration], copies: dict[str, Path]
) -> dict[Path, str]:
    """Return the files to write, with their contents."""
    versions = _versions_after([_version(path) for path in folder.glob("*_*.sql")], len(wanted))
    contents = {}
    for migration in wanted:
        name = migration.copy_name
        path = copies.get(name) or folder / f"{next(versions)}_{name}.sql"
        if not path.exists() or path.read_text(encoding="utf-8") != migration.sql:
            contents[path] = migration.sql
    return contents


def _copies(project: Path) -> dict[str, Path]:
    """The files that were copied into a project, by their name after the version."""
    found = (project / MIGRATIONS).glob(f"*_{COPY_PREFIX}*.sql")
    return {path.stem.split("_", 1)[1]: path for path in sorted(found)}


def _version(path: Path) -> str:
    return path.stem.split("_", 1)[0]


def _versions_after(known: Sequence[str], most: int) -> Iterator[str]:
    """Yield `most` versions as the Supabase CLI makes them: times, after all known versions."""
    newest = max([version for version in known if _is_moment(version)], default="")
    # in the past, so that the next `supabase migration new` gets a later version
    moment = datetime.now(UTC) - timedelta(seconds=most + 1)
    if newest > moment.strftime(VERSION):
        moment = datetime.strptime(newest, VERSION)
    for _ in range(most):
        moment += timedelta(seconds=1)
        yield moment.strftime(VERSION)


def _is_moment(version: str) -> bool:
    try:
        return datetime.strptime(version, VERSION).strftime(VERSION) == version
    except ValueError:
        return False
