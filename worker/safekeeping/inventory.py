"""Which backups are at a destination, and whether they are sound. Needs no database."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from worker.errors import BackupDamaged, BackupError, SettingsError
from worker.queue import StoredRow
from worker.safekeeping.manifest import (
    MANIFEST,
    PROGRESS,
    BackedUpColumn,
    Manifest,
    Part,
    from_json,
)
from worker.safekeeping.parts import check_installed, read_part
from worker.safekeeping.retention import DatedBackup, to_delete
from worker.safekeeping.storage import Storage

FOLDER = "daily/"
CHECK = "check.json"  # what the last check found
NAMED = "%Y-%m-%dT%H-%M-%SZ"
LATEST = "latest"

State = Literal["complete", "incomplete", "unfinished", "damaged"]
"""complete: it has all vectors of its columns. incomplete: some of them were not readable.
unfinished: it is being made, or can be continued for a day. damaged: it is not what was written."""


@dataclass(frozen=True, slots=True)
class FoundBackup:
    """A backup. `problem`: what is known to be wrong with it. `manifest` is None if it cannot be
    read; of an unfinished backup, it has what there is so far."""

    name: str
    state: State
    started_at: datetime
    manifest: Manifest | None
    problem: str | None
    checked_at: datetime | None

    @property
    def is_restorable(self) -> bool:
        return self.state in ("complete", "incomplete")


@dataclass(frozen=True, slots=True)
class CheckedBackup:
    """What reading all of a backup found. `problems` is empty if all is as it was written."""

    name: str
    rows: int
    bytes: int
    problems: tuple[str, ...]


def folder_of(name: str) -> str:
    """Return the folder of a backup."""
    return f"{FOLDER}{name}/"


def state_of(manifest: Manifest) -> State:
    """Return the state of a backup that is not damaged."""
    if manifest.finished_at is None:
        return "unfinished"
    return "incomplete" if manifest.problems else "complete"


def find_backups(storage: Storage) -> list[FoundBackup]:
    """Return the backups at a destination, the newest first."""
    objects: defaultdict[str, set[str]] = defaultdict(set)
    for found in storage.names(FOLDER):
        name, _, rest = found.removeprefix(FOLDER).partition("/")
        if _started_at(name) and rest:
            objects[name].add(rest)
    return [_found(storage, name, objects[name]) for name in sorted(objects, reverse=True)]


def find_backup(storage: Storage, wanted: str) -> FoundBackup:
    """Return a backup by its name, or the `latest` complete one. Raises BackupError."""
    name = wanted.rstrip("/").removeprefix(FOLDER)
    if name != LATEST and not _started_at(name):
        raise SettingsError(f"{wanted} is not the name of a backup", _WHICH)
    for backup in find_backups(storage):
        if backup.name == name or (name == LATEST and backup.state == "complete"):
            return backup
    kind = "complete backup" if name == LATEST else f"backup {name}"
    raise BackupError(f"there is no {kind} at this destination", _WHICH)


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Return what a backup has. Raises BackupDamaged if it is not finished, or not
    what was written."""
    try:
        content = storage.read(folder_of(name) + MANIFEST)
    except FileNotFoundError:
        raise BackupDamaged(
            f"backup {name} has no {MANIFEST}: it is not finished", _WHICH
        ) from None
    return from_json(content, f"{name}/{MANIFEST}")


def read_column(
    storage: Storage, name: str, column: BackedUpColumn, only: Collection[str]
) -> Iterator[list[StoredRow]]:
    """Return the vectors of these records that a backup has of a column, some rows at a time.

    Raises BackupDamaged if a part is not what was written, and FileNotFoundError if it is missing.
    """
    for part in column.parts:
        with storage.local(folder_of(name) + part.name) as path:
            yield from read_part(path, part, column, only)


def check_backup(
    storage: Storage,
    name: str,
    on_part: Callable[[int, int], None] = lambda done, parts: None,
) -> CheckedBackup:
    """Read all of a backup, and record beside it what is wrong with it.

    `on_part` gets how many of its parts were read, and may raise to end it.
    """
    check_installed()
    try:
        manifest = read_manifest(storage, name)
    except BackupDamaged as damage:
        return CheckedBackup(name, 0, 0, (damage.cause,))
    parts = [(column, part) for column in manifest.columns for part in column.parts]
    problems: list[str] = []
    for done, (column, part) in enumerate(parts):
        on_part(done, len(parts))
        problems += filter(None, [_problem_of_part(storage, name, column, part)])
    found = {"checked_at": datetime.now(UTC).isoformat(), "problem": "; ".join(problems) or None}
    storage.put_bytes(folder_of(name) + CHECK, json.dumps(found).encode())
    return CheckedBackup(name, manifest.rows, manifest.bytes, tuple(problems))


def prune(storage: Storage, keep: timedelta, now: datetime | None = None) -> list[str]:
    """Delete the backups that retention does not keep. Returns their names, the oldest first.

    A backup whose manifest cannot be read, for example of a later release, stays.
    """
    dated = [dated for backup in find_backups(storage) if (dated := _dated(backup))]
    deleted = to_delete(dated, keep, now or datetime.now(UTC))
    for name in deleted:
        delete_backup(storage, name)
    return deleted


def delete_backup(storage: Storage, name: str) -> None:
    """Delete a backup: its manifest first, so that half of one counts as unfinished."""
    folder = folder_of(name)
    storage.delete([folder + MANIFEST])
    storage.delete(list(storage.names(folder)))
    storage.delete_unfinished(folder)


def delete_others(storage: Storage, name: str, wanted: Collection[str]) -> None:
    """Delete what is in the folder of a backup and is not part of it, as after a crash."""
    folder = folder_of(name)
    names = {folder + each for each in (*wanted, MANIFEST, CHECK)}
    storage.delete([found for found in storage.names(folder) if found not in names])
    storage.delete_unfinished(folder)


_WHICH = "`worker backup list` shows the backups; --to says where they are."


def _found(storage: Storage, name: str, objects: Collection[str]) -> FoundBackup:
    started_at = _started_at(name)
    assert started_at is not None
    checked_at, problem = _last_check(storage, name) if CHECK in objects else (None, None)
    which = MANIFEST if MANIFEST in objects else PROGRESS
    try:
        content = storage.read(folder_of(name) + which) if which in objects else b""
        manifest = from_json(content, f"{name}/{which}") if content else None
    except FileNotFoundError:  # it was deleted meanwhile
        manifest = None
    except BackupDamaged as damage:
        return FoundBackup(name, "damaged", started_at, None, damage.cause, checked_at)
    if manifest is None or which == PROGRESS:
        return FoundBackup(name, "unfinished", started_at, manifest, None, None)
    missing = [
        part.name
        for column in manifest.columns
        for part in column.parts
        if part.name not in objects
    ]
    if missing or problem:
        words = f"{missing[0]} is missing" if missing else problem
        return FoundBackup(name, "damaged", started_at, manifest, words, checked_at)
    return FoundBackup(
        name, state_of(manifest), started_at, manifest, _listed(manifest.problems), checked_at
    )


def _listed(problems: Mapping[str, str]) -> str | None:
    return "; ".join(f"{name}: {problem}" for name, problem in problems.items()) or None


def _last_check(storage: Storage, name: str) -> tuple[datetime | None, str | None]:
    try:
        found: Any = json.loads(storage.read(folder_of(name) + CHECK))
        problem = found["problem"]
        return datetime.fromisoformat(found["checked_at"]), problem and str(problem)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # as if it was never checked
        return None, None


def _dated(backup: FoundBackup) -> DatedBackup | None:
    """Return a backup as retention sees it; None: it is left alone."""
    manifest = backup.manifest
    if backup.state == "unfinished":
        written_at = max(backup.started_at, manifest.written_at if manifest else backup.started_at)
        return DatedBackup(backup.name, backup.started_at, written_at, None)
    if manifest is None:
        return None
    columns = frozenset(
        f"{manifest.database} {column.name}"
        for column in manifest.columns
        if column.parts and not column.problem
    )
    passed = False if backup.state == "damaged" else bool(backup.checked_at) or None
    return DatedBackup(backup.name, backup.started_at, manifest.written_at, columns, passed)


def _problem_of_part(storage: Storage, name: str, column: BackedUpColumn, part: Part) -> str | None:
    ids: list[str] = []
    rows = 0
    try:
        with storage.local(folder_of(name) + part.name) as path:
            for group in read_part(path, part, column):
                rows += len(group)
                ids = [*ids[:1], *(row.record_id for row in (group[0], group[-1]))]
    except FileNotFoundError:
        return f"{part.name} is missing"
    except BackupDamaged as damage:
        return damage.cause
    if (rows, ids[0], ids[-1]) != (part.rows, part.first, part.last):
        return f"{part.name} has other rows than {MANIFEST} says"
    return None


def _started_at(name: str) -> datetime | None:
    """Return when a backup was begun, by its name; None: this is no name of one."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", name, re.ASCII):
        return None
    try:
        return datetime.strptime(name, NAMED).replace(tzinfo=UTC)
    except ValueError:
        return None
