"""`worker migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.console import out, out_table, say
from worker.cli.session import database, load_settings
from worker.queue.migrations import migrations
from worker.queue.postgres import PostgresQueue


def migrate(
    status: Annotated[
        bool, typer.Option("--status", help="Show what is applied, and change nothing.")
    ] = False,
) -> None:
    """Apply the migrations, in the history that the Supabase CLI keeps as well."""
    with database(load_settings()) as queue:
        if status:
            applied = queue.applied_migrations()
            out_table(
                ["version", "name", "applied"],
                [
                    (m.version, m.name, "yes" if m.version in applied else "no")
                    for m in migrations()
                ],
            )
            return
        count = apply_migrations(queue)
        queue.check_schema()
    say(f"{count} migrations applied" if count else "nothing to apply: the schema is up to date")


def apply_migrations(queue: PostgresQueue) -> int:
    """Apply what the history lacks, each in a transaction of its own. Returns how many."""
    applied = queue.applied_migrations()
    missing = [migration for migration in migrations() if migration.version not in applied]
    for migration in missing:
        queue.apply(migration)
        out(f"{migration.version}_{migration.name}")
    return len(missing)
