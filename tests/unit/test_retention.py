"""Which backups are deleted: never the last good one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from worker.safekeeping.retention import DatedBackup, to_delete

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
DOCS, NOTES = "docs.embedding", "notes.embedding"


def backup(
    days: float, *columns: str, passed: bool | None = None, written: float | None = None
) -> DatedBackup:
    """A backup that was begun so many days ago. Without columns it is unfinished."""
    began = NOW - timedelta(days=days)
    written_at = NOW - timedelta(days=days if written is None else written)
    return DatedBackup(f"{days:g}", began, written_at, frozenset(columns) or None, passed)


@pytest.mark.parametrize(
    ("backups", "deleted"),
    [
        ([], []),
        ([backup(1, DOCS), backup(6, DOCS), backup(8, DOCS), backup(9, DOCS)], ["9", "8"]),
        # the last good one stays, however old it is
        ([backup(30, DOCS), backup(40, DOCS)], ["40"]),
        ([backup(1, DOCS, passed=False), backup(30, DOCS), backup(40, DOCS)], ["40"]),
        ([backup(1, DOCS), backup(30, DOCS, passed=True), backup(40, DOCS, passed=True)], ["40"]),
        ([backup(1), backup(30, DOCS)], []),
        # a backup of some columns stands for these only
        ([backup(1, DOCS), backup(30, DOCS, NOTES), backup(40, DOCS, NOTES)], ["40"]),
        ([backup(1, DOCS), backup(2, NOTES), backup(30, DOCS, NOTES)], ["30"]),
        # a damaged one is better than none
        ([backup(30, DOCS, passed=False), backup(40, DOCS, passed=False)], ["40"]),
        ([backup(30, DOCS, passed=False), backup(40, DOCS)], ["30"]),
        # unfinished ones: after a day in which nothing was written
        ([backup(0.5), backup(2), backup(3, written=0.1)], ["2"]),
    ],
)
def test_what_is_deleted(backups: list[DatedBackup], deleted: list[str]) -> None:
    for order in (backups, backups[::-1]):
        assert to_delete(order, WEEK, NOW) == deleted


def test_a_last_good_one_stays_in_every_case() -> None:
    kinds: list[Callable[[int], DatedBackup]] = [
        lambda days: backup(days, DOCS),
        lambda days: backup(days, DOCS, passed=True),
        lambda days: backup(days, DOCS, passed=False),
        lambda days: backup(days, NOTES),
        lambda days: backup(days),
    ]
    for made in itertools.product(kinds, repeat=4):
        backups = [make(days) for make, days in zip(made, (1, 8, 20, 90), strict=True)]
        deleted = to_delete(backups, WEEK, NOW)
        left = [each for each in backups if each.name not in deleted]
        for column in (DOCS, NOTES):
            for is_good in (lambda passed: passed, lambda passed: passed is not False):
                good = [b for b in backups if column in (b.columns or ()) and is_good(b.passed)]
                assert not good or good[0] in left
