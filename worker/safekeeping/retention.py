"""Which backups are kept, and which are deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

UNFINISHED_FOR = timedelta(days=1)
"""How long nothing was written to a backup that is not complete, until it is deleted."""


@dataclass(frozen=True, slots=True)
class DatedBackup:
    """A backup. `columns`: those of which it has all vectors, and any; None: it is not complete.

    `passed`: what its last check found; None: it was never checked.
    """

    name: str
    started_at: datetime
    written_at: datetime
    columns: frozenset[str] | None
    passed: bool | None = None


def to_delete(backups: Iterable[DatedBackup], keep: timedelta, now: datetime) -> list[str]:
    """Return the names of the backups that are older than `keep`, and of unfinished ones.

    The newest backup of a column that may be good is never among them, nor the newest one that
    passed its check: if backups fail from now on, they stay for ever. If all are damaged, the
    newest one stays.
    """
    newest_first = sorted(backups, key=lambda backup: backup.started_at, reverse=True)
    needed = _needed(newest_first)
    return [
        backup.name
        for backup in reversed(newest_first)
        if (
            backup.written_at < now - UNFINISHED_FOR
            if backup.columns is None
            else backup.started_at < now - keep and backup.name not in needed
        )
    ]


def _needed(newest_first: Sequence[DatedBackup]) -> set[str]:
    """Return the names of the backups that are the last good ones of a column."""
    good: dict[str, str] = {}
    passed: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for backup in newest_first:
        for column in backup.columns or ():
            (damaged if backup.passed is False else good).setdefault(column, backup.name)
            if backup.passed:
                passed.setdefault(column, backup.name)
    return {*(damaged | good).values(), *passed.values()}
