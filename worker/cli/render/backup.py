"""Backups, and what was found in them."""

from __future__ import annotations

from collections.abc import Sequence

from worker.cli.console import out, say
from worker.cli.render.tables import out_table
from worker.cli.render.text import ago
from worker.durations import format_duration
from worker.figures import counted
from worker.operations.backup import MadeBackup
from worker.safekeeping.inventory import CheckedBackup, FoundBackup
from worker.terminal import printable


def megabytes(size: int) -> str:
    """A number of bytes in MB, of a million bytes."""
    return f"{size / 1e6:.1f} MB"


def print_made(made: MadeBackup) -> None:
    """Print what is in a new backup, and what is not."""
    figures = f"{counted(made.rows, 'vector')}, {megabytes(made.bytes)}"
    seconds = format_duration(made.seconds)
    out(f"Backup {made.name}: {figures}, in {seconds} -> {printable(made.destination)}")
    if made.kept_rows:
        out(f"Kept from an earlier attempt: {counted(made.kept_rows, 'vector')}")
    for name, problem in made.problems.items():
        out(printable(f"Not complete: {name}: {problem}"))
    for name in made.deleted:
        out(f"Deleted: {name}")
    if made.state == "unfinished":
        say("hint: The backup is not complete; the same command continues it.")
    elif made.problems:
        say("hint: Correct the problem and make another backup. `worker doctor` may know more.")


def print_backups(found: Sequence[FoundBackup]) -> None:
    """Print a line for each backup, and below them what is wrong."""
    heads = ["name", "state", "vectors", "MB", "checked"]
    out_table(heads, [_cells(backup) for backup in found])
    for backup in found:
        if backup.problem:
            say(printable(f"{backup.name}: {backup.problem}"))


def _cells(backup: FoundBackup) -> tuple[object, ...]:
    manifest = backup.manifest
    return (
        backup.name,
        backup.state,
        manifest.rows if manifest else None,
        f"{manifest.bytes / 1e6:.1f}" if manifest else None,
        ago(backup.checked_at) if backup.checked_at else None,
    )


def print_checked(checked: CheckedBackup) -> None:
    """Print what a check found."""
    if checked.problems:
        out(f"Backup {checked.name} is damaged:")
        out(*(printable(f"  {problem}") for problem in checked.problems))
        say("hint: Use another backup, and make a new one: `worker backup`.")
    else:
        figures = f"{counted(checked.rows, 'vector')}, {megabytes(checked.bytes)}"
        out(f"Backup {checked.name} is as it was written: {figures}")
