"""The commands about backups: `backup`, `backup list`, `check`, `prune`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from worker.cli.console import ProgressLine, out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import AsJson, BackupName, BackupTo, Keep, Table
from worker.cli.render.backup import megabytes, print_backups, print_checked, print_made
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.durations import parse_duration
from worker.errors import SettingsError
from worker.operations import backup as backups
from worker.operations.backup import BackupRequest
from worker.operations.session import open_queue
from worker.safekeeping import inventory
from worker.safekeeping.inventory import LATEST, FoundBackup
from worker.safekeeping.locations import destination_of, open_storage
from worker.settings import Settings


def backup(
    to: BackupTo = None, table: Table = None, keep: Keep = None, as_json: AsJson = False
) -> int:
    """Back up the vectors of watched columns, and manage the backups.

    A backup that was interrupted is continued for a day. It contains vectors, keys and hashes, and
    no text.
    """
    settings = load_settings()
    request = BackupRequest(destination_of(settings, to), table, keep=_keep(keep, settings))
    progress = ProgressLine()
    with open_queue(settings) as queue, stopped_by_signals("this part") as stop:
        made = backups.back_up_now(
            queue,
            settings,
            request,
            stop=stop,
            on_progress=lambda rows, size: progress.say(f"{rows} vectors, {megabytes(size)}"),
            source="cli",
        )
    if as_json:
        out_json(asdict(made))
    else:
        print_made(made)
    return INTERRUPTED if made.state == "unfinished" else int(made.state != "complete")


def list_backups(to: BackupTo = None, as_json: AsJson = False) -> None:
    """List the backups at a destination, the newest first."""
    settings = load_settings()
    destination = destination_of(settings, to)
    found = inventory.find_backups(open_storage(destination, settings))
    if as_json:
        out_json([_as_json(each) for each in found])
    elif found:
        print_backups(found)
    else:
        say(f"There are no backups at {destination}: `worker backup` makes one.")


def check(name: BackupName = LATEST, to: BackupTo = None, as_json: AsJson = False) -> int:
    """Read all of a backup, and report what is not as it was written.

    What it finds is recorded beside the backup, and in the database if that can be reached.
    """
    checked = backups.check_now(load_settings(), name, to)
    if as_json:
        out_json(asdict(checked))
    else:
        print_checked(checked)
    return int(bool(checked.problems))


def prune(to: BackupTo = None, keep: Keep = None, as_json: AsJson = False) -> None:
    """Delete old backups and unfinished ones; never the last good backup of a column."""
    settings = load_settings()
    age = _keep(keep, settings)
    if age is None:
        raise SettingsError(
            "the age from which backups are deleted is missing",
            "Give --keep 7d, or set BACKUP_KEEP.",
        )
    deleted = inventory.prune(open_storage(destination_of(settings, to), settings), age)
    if as_json:
        out_json({"deleted": deleted})
    else:
        out(*(f"Deleted: {name}" for name in deleted))
        if not deleted:
            say("There was nothing to delete.")


def _keep(keep: str | None, settings: Settings) -> timedelta | None:
    return settings.backup_keep if keep is None else parse_duration(keep)


def _as_json(backup: FoundBackup) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "name": backup.name,
        "state": backup.state,
        "started_at": backup.started_at,
        "finished_at": manifest.finished_at if manifest else None,
        "rows": manifest.rows if manifest else None,
        "bytes": manifest.bytes if manifest else None,
        "columns": [column.name for column in manifest.columns] if manifest else [],
        "checked_at": backup.checked_at,
        "problem": backup.problem,
    }
