"""What a restore did, or would do."""

from __future__ import annotations

import shlex

from worker.cli.console import out, say
from worker.cli.render.tables import out_table
from worker.durations import format_duration
from worker.figures import counted
from worker.operations.restore import RestoredBackup, RestoredColumn
from worker.queue import Outcome
from worker.terminal import printable

HEADS: tuple[Outcome, ...] = (
    "restored",
    "present",
    "other_vector",
    "stale",
    "gone",
    "locked",
    "refused",
)


def print_restored(restored: RestoredBackup) -> None:
    """Print a line for each column, and what remains to be done."""
    if restored.dry_run:
        out(f"Backup {restored.name}: nothing is written (--dry-run)")
    else:
        seconds = format_duration(restored.seconds)
        out(f"Backup {restored.name} {_end_of(restored)}, in {seconds}")
    out_table(["column", *map(_head, HEADS)], [_cells(column) for column in restored.columns])
    for column in restored.columns:
        for record, cause in column.refused.items():
            say(printable(f"{_name(column)}: {record} was refused: {cause}"))
        if column.problem:
            say(printable(f"{_name(column)} is not complete in this backup: {column.problem}"))
    if restored.dry_run:
        say(
            f"hint: The vectors take about {restored.bytes / 1e6:.0f} MB in the database, and as"
            " much in its log; how much is free cannot be seen in SQL."
        )
    else:
        _print_hints(restored)


def _print_hints(restored: RestoredBackup) -> None:
    if not restored.is_finished:
        say("hint: The restore is not complete; the same command continues it.")
    if any(column.outcomes.get("other_vector") for column in restored.columns):
        say("hint: Vectors that differ from the backup were kept: --overwrite replaces them.")
    for column in restored.columns:
        if column.is_indexed is False:
            command = f"worker index {shlex.quote(column.table)}"
            if column.column != "embedding":
                command += f" --column {shlex.quote(column.column)}"
            say(printable(f"hint: {_name(column)} has no valid vector index: `{command}`."))


def _end_of(restored: RestoredBackup) -> str:
    count = sum(column.outcomes.get("restored", 0) for column in restored.columns)
    end = "restored" if restored.is_finished else "not restored as a whole"
    return f"{end}: {counted(count, 'record')} written"


def _head(outcome: str) -> str:
    return outcome.replace("_", " ")


def _cells(column: RestoredColumn) -> tuple[object, ...]:
    return (_name(column), *(column.outcomes.get(outcome, 0) for outcome in HEADS))


def _name(column: RestoredColumn) -> str:
    return f"{column.table}.{column.column}"
