"""The command `restore`."""

from __future__ import annotations

from dataclasses import asdict

from worker.cli.console import ProgressLine, out_json
from worker.cli.environment import load_settings
from worker.cli.options import (
    AsJson,
    BackupTo,
    BackupToRestore,
    OnlyRecord,
    OverwriteVectors,
    RestoreDryRun,
    Table,
)
from worker.cli.render.restore import print_restored
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.errors import BackupError
from worker.operations import restore as restoring
from worker.operations.restore import RestoreRequest
from worker.operations.session import open_queue
from worker.safekeeping.locations import destination_of


def restore(
    name: BackupToRestore,
    to: BackupTo = None,
    table: Table = None,
    record: OnlyRecord = None,
    overwrite: OverwriteVectors = False,
    dry_run: RestoreDryRun = False,
    as_json: AsJson = False,
) -> int:
    """Restore vectors from a backup, without calling the model.

    Only records whose text is still the one that was embedded get their vector, and only if they
    lack it. Everything is checked before anything is written. Run the command again to continue.
    """
    settings = load_settings()
    records = None if record is None else [record]
    destination = destination_of(settings, to)
    request = RestoreRequest(
        destination, name, table, records=records, overwrite=overwrite, dry_run=dry_run
    )
    progress = ProgressLine()
    with open_queue(settings) as queue, stopped_by_signals("this range") as stop:
        restored = restoring.restore(
            queue,
            settings,
            request,
            stop=stop,
            on_progress=lambda rows, of_rows: progress.say(f"{rows} of {of_rows} vectors"),
            source="cli",
        )
    if record is not None and not any(column.outcomes for column in restored.columns):
        raise BackupError(
            f"backup {restored.name} has no vector of record {record}",
            "A backup has only vectors that belonged to their text when it was made.",
        )
    if as_json:
        out_json(asdict(restored))
    else:
        print_restored(restored)
    return INTERRUPTED if stop.is_set() else int(not restored.is_finished)
