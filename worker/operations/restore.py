"""Restores vectors from a backup. The same call again continues what was not finished."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from worker.errors import BackupDamaged, BackupError, DatabaseError, SettingsError, WorkerError
from worker.operations.opening import opened_model
from worker.operations.restore_run import ColumnToRestore, RestoreRun
from worker.operations.session import select
from worker.queue import AdminQueue, Outcome
from worker.queue.audit import CallSource
from worker.safekeeping.fitting import parts_of, problems_of
from worker.safekeeping.inventory import LATEST, find_backup, folder_of, read_manifest
from worker.safekeeping.locations import Destination, open_storage
from worker.safekeeping.manifest import BackedUpColumn, Part
from worker.safekeeping.parts import check_installed, check_part
from worker.safekeeping.storage import Storage
from worker.settings import Settings

HOW_TO_LEAVE_OUT = "Nothing was written. Correct this, or restore one table: --table TABLE."


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to restore, and from where: all tables and records, or only these.

    `overwrite`: also where a row has another vector of its text. `dry_run`: write nothing.
    """

    destination: Destination
    name: str = LATEST
    table: str | None = None
    records: Collection[str] | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RestoredColumn:
    """What became of the records of a column that are in the backup, by outcome.

    `refused`: some of the records that were refused, with the reason. `problem`: why the backup
    does not have all of its vectors. `is_indexed`: whether a search can use a vector index; None:
    that is not known.
    """

    table: str
    column: str
    outcomes: Mapping[Outcome, int]
    refused: Mapping[str, str]
    problem: str | None
    is_indexed: bool | None


@dataclass(frozen=True, slots=True)
class RestoredBackup:
    """A restore. `is_finished`: every record was restored that can be; otherwise the same restore
    continues it. `bytes`: of the vectors, about as many as they take in the database."""

    name: str
    destination: str
    dry_run: bool
    is_finished: bool
    columns: tuple[RestoredColumn, ...]
    bytes: int
    seconds: float


def restore(
    queue: AdminQueue,
    settings: Settings,
    request: RestoreRequest,
    *,
    stop: Event | None = None,
    on_progress: Callable[[int, int], None] = lambda rows, of_rows: None,
    source: CallSource = "api",
) -> RestoredBackup:
    """Restore vectors to the records whose text is still the one they were made from.

    Everything is checked before the first write. `on_progress` gets the rows that were read so far,
    and how many there are. Raises BackupError with everything that is wrong, SettingsError, and
    Unreachable or Busy; the same call then continues.
    """
    check_installed()
    if request.records is not None and request.table is None:
        raise SettingsError(
            "a record was given without its table", "Name the table as well: --table TABLE."
        )
    began = time.monotonic()
    storage = open_storage(request.destination, settings)
    name = _restorable(storage, request.name)
    wanted = _checked(queue, settings, storage, name, request)
    stop = stop or Event()
    run = RestoreRun(queue, storage, settings, request.overwrite, request.dry_run, stop)
    run.report_to(on_progress, sum(part.rows for each in wanted for part in each.parts))
    columns = tuple(_restored(run, column, request, source) for column in wanted)
    return RestoredBackup(
        name=name,
        destination=str(request.destination),
        dry_run=request.dry_run,
        is_finished=not stop.is_set() and not any(map(_has_remaining, columns)),
        columns=columns,
        bytes=sum(4 * (each.column.width or 0) * each.rows_read for each in wanted),
        seconds=time.monotonic() - began,
    )


def _restorable(storage: Storage, wanted: str) -> str:
    """Return the name of a backup. Raises BackupError if it is not one as a whole."""
    backup = find_backup(storage, wanted)
    if backup.state == "unfinished":
        raise BackupDamaged(
            f"backup {backup.name} is not finished", "`worker backup` continues it for a day."
        )
    return backup.name


def _checked(
    queue: AdminQueue, settings: Settings, storage: Storage, name: str, request: RestoreRequest
) -> list[ColumnToRestore]:
    """Return what to restore. Raises BackupError if parts are damaged or columns differ."""
    manifest = read_manifest(storage, name)
    selected = select(queue, request.table, None) if request.table else None
    table = selected.table if selected else None
    columns = [each for each in manifest.columns if each.parts and table in (None, each.table)]
    if not columns:
        raise SettingsError(
            f"backup {name} has no vectors" + (f" of table {table}" if table else ""),
            "`worker backup list` shows the backups.",
        )
    problems: list[str] = []
    wanted = [_wanted(queue, storage, name, column, request, problems) for column in columns]
    for each in wanted:
        if each and each.target.chunk_unit == "tokens":
            problems += _uncounted(settings, each)
    if problems:
        cause = f"backup {name} cannot be restored: {'; '.join(problems)}"
        raise BackupError(cause, HOW_TO_LEAVE_OUT)
    return [column for column in wanted if column]


def _uncounted(settings: Settings, column: ColumnToRestore) -> Iterator[str]:
    """Say why the tokens of texts cannot be counted, by which they are cut into chunks."""
    try:
        with opened_model(settings, column.target):
            return
    except WorkerError as error:
        yield f"{column.column.name}: {error.cause}"


def _wanted(
    queue: AdminQueue,
    storage: Storage,
    name: str,
    column: BackedUpColumn,
    request: RestoreRequest,
    problems: list[str],
) -> ColumnToRestore | None:
    """Return a column to restore, and add what is wrong with it to `problems`."""
    parts = parts_of(column, request.records)
    problems += _damaged(storage, name, parts)
    try:
        [target] = queue.targets(column.table, column.column)
        kind = queue.describe(target)
    except SettingsError as error:
        problems.append(f"{column.name}: {error.cause}")
        return None
    problems += [f"{column.name}: {problem}" for problem in problems_of(column, target, kind)]
    return ColumnToRestore(name, column, target, parts, request.records)


def _damaged(storage: Storage, name: str, parts: Sequence[Part]) -> Iterator[str]:
    """Say which parts are missing, or not what was written."""
    for part in parts:
        try:
            with storage.local(folder_of(name) + part.name) as path:
                check_part(path, part)
        except FileNotFoundError:
            yield f"{part.name} is missing"
        except BackupDamaged as damage:
            yield damage.cause


def _restored(
    run: RestoreRun, column: ColumnToRestore, request: RestoreRequest, source: CallSource
) -> RestoredColumn:
    """Restore a column. What was written is recorded, also if it ends with an error."""
    try:
        run.restore(column)
    finally:
        if not request.dry_run and column.outcomes["restored"]:
            _audit(run.queue, request, column, source)
    is_indexed = None
    with suppress(DatabaseError):  # the role of workers may not see that
        is_indexed = run.queue.has_vector_index(column.target)
    return RestoredColumn(
        table=column.column.table,
        column=column.column.column,
        outcomes=dict(column.outcomes),
        refused=dict(column.refused),
        problem=column.column.problem,
        is_indexed=is_indexed,
    )


def _has_remaining(column: RestoredColumn) -> bool:
    outcomes = Counter(column.outcomes)
    return bool(outcomes["locked"] or outcomes["refused"])


def _audit(
    queue: AdminQueue, request: RestoreRequest, column: ColumnToRestore, source: CallSource
) -> None:
    figures: dict[str, Any] = {"backup": column.backup, "from": str(request.destination)[:500]}
    figures |= {outcome: count for outcome, count in column.outcomes.items() if count}
    with suppress(DatabaseError):  # what was restored stays
        queue.record_audit(
            "restored", column.column.table, column.column.column, source=source, figures=figures
        )
