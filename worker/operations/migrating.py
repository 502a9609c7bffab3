"""Applies the migrations to a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.database.migrations import Migration, migrations
from worker.database.project import as_in_project
from worker.queue.postgres import PostgresQueue


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration, and the version under which the database has it; None if it is missing."""

    migration: Migration
    applied: str | None


def migrate(
    queue: PostgresQueue,
    project: Path = Path(),
    on_applied: Callable[[Migration], None] = lambda _: None,
) -> list[Migration]:
    """Apply what the database lacks, each in a transaction of its own. Returns what was applied.

    If the folder `project` has copies, the history gets their versions, so that `supabase db push`
    knows them.
    """
    history = queue.applied_migrations()
    fresh = []
    for ours, copied in zip(migrations(), as_in_project(project, migrations()), strict=True):
        applied = ours.version_in(history)
        if not applied:
            if queue.apply(copied):
                on_applied(copied)
                fresh.append(copied)
        elif copied != ours:
            queue.reenter(applied, copied)
    return fresh


def migration_status(queue: PostgresQueue) -> list[MigrationStatus]:
    """Return all migrations in their order, and which of them the database has."""
    history = queue.applied_migrations()
    return [MigrationStatus(each, each.version_in(history)) for each in migrations()]
