"""The migration history of a database, in the table of the Supabase CLI."""

from __future__ import annotations

import psycopg
from psycopg.rows import scalar_row

from worker.database.connection import PostgresConnection, translated
from worker.database.migrations import Migration
from worker.database.translation import one_line
from worker.errors import SettingsError

RESTORED_IN_PART = (
    "Most likely a dump was restored in part. docs/troubleshooting.md says how to restore the rest,"
    " or how to begin again."
)

# Part of the schema exists, but the history does not list it.
_DUPLICATES = (
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateObject,
)


class MigrationHistory:
    """The history table of the database behind a connection."""

    def __init__(self, database: PostgresConnection) -> None:
        self._database = database

    def applied(self) -> dict[str, str | None]:
        """Return the version and the name of each migration that was applied."""
        with translated(), self._database.current.cursor(row_factory=scalar_row) as cursor:
            # Not to_regclass: it may not know yet what was created while this session was waiting.
            [is_there] = cursor.execute(
                "select exists (select from pg_catalog.pg_tables"
                " where schemaname = 'supabase_migrations' and tablename = 'schema_migrations')"
            )
            if not is_there:
                return {}
            [history] = cursor.execute(
                "select coalesce(jsonb_object_agg(version, name), '{}')"
                " from supabase_migrations.schema_migrations"
            )
            return dict(history)

    def apply(self, migration: Migration) -> bool:
        """Run a migration and record it in the history, in one transaction.

        Another process that does so at this moment is waited for. Returns False if it has applied
        this migration.
        """
        with translated(), self._database.current.transaction():
            connection = self._database.current
            connection.execute(
                "select pg_catalog.pg_advisory_xact_lock("
                " pg_catalog.hashtext('supabase_migrations')::bigint)"
            )
            if migration.version_in(self.applied()):
                return False
            connection.execute("create schema if not exists supabase_migrations")
            connection.execute(
                "create table if not exists supabase_migrations.schema_migrations"
                " (version text primary key, statements text[], name text)"
            )
            try:
                connection.execute(migration.sql.encode())
            except _DUPLICATES as problem:
                raise SettingsError(
                    f"the migration history does not list {migration.version}_{migration.name},"
                    f" but part of it exists: {one_line(str(problem.diag.message_primary))}",
                    problem.diag.message_hint or RESTORED_IN_PART,
                ) from problem
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name)"
                " values (%s, %s, %s)",
                [migration.version, [migration.sql], migration.name],
            )
            return True

    def reenter(self, version: str, migration: Migration) -> None:
        """Record a migration under its own version, in place of another one."""
        with translated():
            self._database.current.execute(
                "with entry as (delete from supabase_migrations.schema_migrations"
                "                where version = %s and version <> %s returning statements)"
                " insert into supabase_migrations.schema_migrations (version, statements, name)"
                " select %s, statements, %s from entry on conflict do nothing",
                [version, migration.version, migration.version, migration.name],
            )
