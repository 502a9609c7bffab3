"""Backs up the vectors of watched columns. The same call again continues what was not finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Event
from typing import Self

from worker.errors import BackupError, SettingsError, WorkerError
from worker.operations.backup_run import LEASE, BackupRun
from worker.operations.session import has_ended, new_worker_name, open_queue, select, worker_name
from worker.queue import AdminQueue, KnownBackup, Target
from worker.queue.audit import CallSource
from worker.safekeeping.inventory import (
    LATEST,
    CheckedBackup,
    State,
    check_backup,
    find_backup,
    prune,
    state_of,
)
from worker.safekeeping.locations import Destination, destination_of, open_storage
from worker.safekeeping.manifest import Manifest
from worker.safekeeping.parts import check_installed
from worker.safekeeping.storage import temporary_files_error
from worker.settings import Settings

_running: set[str] = set()
"""The names of the workers of this process that make a backup now."""


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up, and where to. `table` None: all tables.

    `every`: only if the last backup to this destination is older. `keep`: delete older backups
    after it.
    """

    destination: Destination
    table: str | None = None
    every: timedelta | None = None
    keep: timedelta | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """A backup of all tables, as the settings say. Raises SettingsError."""
        return cls(destination_of(settings), keep=settings.backup_keep)


@dataclass(frozen=True, slots=True)
class MadeBackup:
    """A backup that was made, or stopped before its end (`unfinished`).

    `kept_rows`: how many of the rows an earlier attempt had written. `problems`: why a column is
    not in it, or not as a whole. `deleted`: the older backups that were deleted.
    """

    name: str
    destination: str
    state: State
    rows: int
    bytes: int
    kept_rows: int
    seconds: float
    problems: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)


OnProgress = Callable[[int, int], None]
"""Gets the rows and the bytes so far."""


def back_up_now(
    queue: AdminQueue,
    settings: Settings,
    request: BackupRequest,
    *,
    stop: Event | None = None,
    on_progress: OnProgress = lambda rows, bytes: None,
    source: CallSource = "api",
) -> MadeBackup:
    """Make a backup as `make_backup` does. Raises BackupError if another worker makes one."""
    made = make_backup(queue, settings, request, stop=stop, on_progress=on_progress, source=source)
    if made is None:
        raise BackupError(
            f"another worker is making a backup to {request.destination}",
            "Wait until it has ended: `worker backup list` shows how far it is.",
        )
    return made


def check_now(
    settings: Settings,
    name: str = LATEST,
    to: str | None = None,
    on_part: Callable[[int, int], None] = lambda done, parts: None,
) -> CheckedBackup:
    """Read all of a backup, and record what is wrong with it.

    `on_part` gets how many of its parts were read, and may raise to end it. The database gets the
    result if it can be reached: a backup can be checked because there is none any more.
    """
    destination = destination_of(settings, to)
    storage = open_storage(destination, settings)
    checked = check_backup(storage, find_backup(storage, name).name, on_part)
    with suppress(WorkerError), open_queue(settings) as queue:
        problem = "; ".join(checked.problems) or None
        queue.record_backup_check(str(destination), checked.name, problem)
    return checked


def make_backup(
    queue: AdminQueue,
    settings: Settings,
    request: BackupRequest,
    *,
    stop: Event | None = None,
    on_progress: OnProgress = lambda rows, bytes: None,
    source: CallSource = "api",
) -> MadeBackup | None:
    """Make a backup, or continue the last one. None: it is not due, or another worker makes it.

    A column that cannot be read is left out and named; all else that is wrong ends the backup:
    raises SettingsError, BackupError, Unreachable.
    """
    check_installed()
    selection = select(queue, request.table, None)
    if not selection.targets:
        raise SettingsError(
            "no column is watched, so there is nothing to back up", "`worker watch` adds one."
        )
    storage = open_storage(request.destination, settings)
    worker = new_worker_name()
    _running.add(worker)
    try:
        begun = _begin(queue, request, worker, selection.table)
        if begun is None:
            return None
        run = BackupRun(queue, storage, begun, stop or Event(), on_progress)
        made = _run(run, selection.targets, source)
    finally:
        _running.discard(worker)
    if request.keep is None or made.state == "unfinished" or _has_much_damage(queue):
        return made
    return replace(made, deleted=prune(storage, request.keep))


def _has_much_damage(queue: AdminQueue) -> bool:
    """Whether vectors are lost that only an older backup may have, since no newer one gets them."""
    return any(check.left for check in queue.checks())


def _begin(
    queue: AdminQueue, request: BackupRequest, worker: str, table: str | None
) -> KnownBackup | None:
    """Begin a backup or continue one. None: it is not due, or another worker makes it."""
    destination = str(request.destination)
    begun = queue.begin_backup(destination, worker, LEASE, request.every, table)
    if begun is None and _release_abandoned(queue, destination):
        begun = queue.begin_backup(destination, worker, LEASE, request.every, table)
    return begun


def _release_abandoned(queue: AdminQueue, destination: str) -> bool:
    """Release the backups whose workers were killed on this host. False: there are none."""
    dead = [
        backup
        for backup in queue.backups()
        if backup.destination == destination
        and backup.state == "running"
        and not _may_be_alive(backup.worker)
    ]
    return any([queue.extend_backup(backup, timedelta(0)) for backup in dead])


def _may_be_alive(worker: str) -> bool:
    """Whether a worker could still make its backup. Of those of other hosts, nothing is known."""
    if worker.startswith(f"{worker_name()}:"):
        return worker in _running
    return not has_ended(worker)


def _run(run: BackupRun, targets: Sequence[Target], source: CallSource) -> MadeBackup:
    """Make a backup that was begun, and report how it ended."""
    began = time.monotonic()
    try:
        manifest = _made(run, targets)
    except WorkerError as error:
        with suppress(WorkerError):  # the database may be why
            run.end(error.cause, source)
        raise
    if manifest.finished_at is None:
        run.release()
    else:
        run.end(None, source)
    return MadeBackup(
        name=run.known.name,
        destination=run.known.destination,
        state=state_of(manifest),
        rows=manifest.rows,
        bytes=manifest.bytes,
        kept_rows=run.kept_rows,
        seconds=time.monotonic() - began,
        problems=manifest.problems,
    )


def _made(run: BackupRun, targets: Sequence[Target]) -> Manifest:
    try:
        return run.back_up(targets)
    except OSError as error:
        raise temporary_files_error(error) from None
