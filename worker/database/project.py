"""The folder of somebody's Supabase project, and the migrations of this worker in it."""

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
    """The migrations under the versions and names of their copies, where a project has such."""
    copies = _copies(project)
    return [
        replace(migration, version=_version(copies[migration.copy_name]), name=migration.copy_name)
        if migration.copy_name in copies
        else migration
        for migration in wanted
    ]


def copy_into(project: Path, wanted: Sequence[Migration], overwrite: bool) -> list[Path]:
    """Copy what a project lacks, with versions behind all of its own. Returns the new files.

    A copy that is there is known by its name. Raises SettingsError, and copies nothing, if one has
    another content and is not to be overwritten.
    """
    if not (project / "supabase").is_dir():
        raise SettingsError(
            f"there is no folder supabase in {project}",
            "Name the folder of your project, or make it one: supabase init",
        )
    copies = _copies(project)
    contents = _new_contents(project / MIGRATIONS, wanted, copies)
    differing = [path for path in contents if path in copies.values()]
    if differing and not overwrite:
        raise SettingsError(
            f"not as this worker has it: {', '.join(str(path) for path in differing)}",
            "`worker init --force` overwrites it. Databases that have applied it stay as they are.",
        )
    for path, sql in contents.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(sql, encoding="utf-8")
    return list(contents)


def _new_contents(
    folder: Path, wanted: Sequence[Migration], copies: dict[str, Path]
) -> dict[Path, str]:
    """What is to be written into which file, so that all that is wanted is there."""
    versions = _versions_after([_version(path) for path in folder.glob("*_*.sql")])
    contents = {}
    for migration in wanted:
        name = migration.copy_name
        path = copies.get(name) or folder / f"{next(versions)}_{name}.sql"
        if not path.exists() or path.read_text(encoding="utf-8") != migration.sql:
            contents[path] = migration.sql
    return contents


def _copies(project: Path) -> dict[str, Path]:
    """The files that were copied into a project, by their name behind the version."""
    found = (project / MIGRATIONS).glob(f"*_{COPY_PREFIX}*.sql")
    return {path.stem.split("_", 1)[1]: path for path in sorted(found)}


def _version(path: Path) -> str:
    return path.stem.split("_", 1)[0]


def _versions_after(known: Sequence[str]) -> Iterator[str]:
    """Versions as the Supabase CLI makes them: moments, behind all that are known."""
    newest = max([version for version in known if _is_moment(version)], default="")
    # from the past, so that what `supabase migration new` makes in a moment comes behind them
    moment = datetime.now(UTC) - timedelta(minutes=1)
    if newest > moment.strftime(VERSION):
        moment = datetime.strptime(newest, VERSION)
    while True:
        moment += timedelta(seconds=1)
        yield moment.strftime(VERSION)


def _is_moment(version: str) -> bool:
    try:
        return datetime.strptime(version, VERSION).strftime(VERSION) == version
    except ValueError:
        return False
