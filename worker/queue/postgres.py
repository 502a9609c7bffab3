"""The queue over a connection to Postgres, and the calls that need one: watch and migrate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString, Unpack

from worker.database.connection import PostgresConnection
from worker.database.history import RESTORED_IN_PART, MigrationHistory
from worker.database.migrations import Migration, check_version
from worker.errors import SchemaError, SettingsError
from worker.queue.admin_calls import AdminCalls
from worker.queue.audit import CallSource
from worker.queue.callers import Caller
from worker.queue.damage import DamageCalls
from worker.queue.dashboard import DashboardCalls
from worker.queue.files import FileCalls, FolderCalls
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.reembeddings import ReembeddingCalls
from worker.queue.reports import AdoptedRows, Session, StoredVector
from worker.queue.safekeeping import SafekeepingCalls
from worker.queue.search import Match, MatchFunction
from worker.queue.targets import Target, WatchOptions, WatchPreview, resolve_table
from worker.queue.transports import columns_of
from worker.queue.transports.postgres import PostgresTransport
from worker.queue.worker_calls import WorkerCalls


class PostgresQueue(
    WorkerCalls,
    AdminCalls,
    DashboardCalls,
    FileCalls,
    FolderCalls,
    SafekeepingCalls,
    DamageCalls,
    ReembeddingCalls,
):
    """The queue in the database at `url`, and everything else the SQL API offers.

    Methods raise what a Transport raises. After Unreachable, the next call connects again.
    """

    def __init__(self, url: str, application_name: str) -> None:
        """Connect. The schema is not checked yet. Raises Unreachable, or SettingsError."""
        self.database = PostgresConnection(url, application_name)
        self._history = MigrationHistory(self.database)
        self._postgres = PostgresTransport(self.database)
        super().__init__(self._postgres)

    # -- the schema

    def check_schema(self) -> int:
        exists = (
            "select pg_catalog.to_regprocedure('public.embedding_schema_version()') is not null"
        )
        if self._postgres.value(exists):
            return super().check_schema()
        if self._postgres.value("select to_regclass('public.embedding_queue') is not null"):
            raise SchemaError(
                "this database has tables of embedding-worker, but not its functions",
                RESTORED_IN_PART,
            )
        return check_version(None)

    def applied_migrations(self) -> dict[str, str | None]:
        """Return version and name of each migration in the history table of the Supabase CLI."""
        return self._history.applied()

    def apply(self, migration: Migration) -> bool:
        """Run a migration and record it in the history, unless another process has done so."""
        return self._history.apply(migration)

    def reenter(self, version: str, migration: Migration) -> None:
        """Record a migration under its own version, in place of another one."""
        self._history.reenter(version, migration)

    def run_script(self, sql: str) -> None:
        """Run the statements of an SQL file, all or none."""
        self.database.run_script(sql)

    # -- the targets

    def watch(
        self,
        table: str,
        source: str | None,
        column: str,
        *,
        audit_source: CallSource = "api",
        **options: Unpack[WatchOptions],
    ) -> Target:
        """Keep `column` in step with `source`; see watch_embeddings in the SQL API."""
        arguments = self._watch_arguments(table, source, column, options)
        return self._rows(Target, "watch_embeddings", **arguments, audit_source=audit_source)[0]

    def preview_watch(
        self,
        table: str,
        source: str | None,
        column: str,
        default_model: str,
        **options: Unpack[WatchOptions],
    ) -> WatchPreview:
        """Return what `watch` would change, and change nothing."""
        arguments = self._watch_arguments(table, source, column, options)
        return self._rows(
            WatchPreview, "preview_watch_embeddings", **arguments, default_model=default_model
        )[0]

    def sample_adoptable(
        self,
        table: str,
        source: str | None,
        column: str,
        sample: int,
        **options: Unpack[WatchOptions],
    ) -> list[StoredVector]:
        """Return vectors without a job, of a column that is watched with these arguments or would
        be. Raises SettingsError if they cannot be adopted."""
        arguments = self._watch_arguments(table, source, column, options)
        rows = self._postgres.rows(
            "sample_adoptable",
            {**arguments, "sample": sample},
            {"record_id": str, "content": str, "vector": columns_of(StoredVector)["vector"]},
        )
        return [StoredVector(excluded=None, **row) for row in rows]

    def adopt(
        self,
        target: Target,
        model: str,
        width: int,
        after: str | None,
        batch: int = JOBS_IN_ONE_CALL,
    ) -> AdoptedRows:
        """Record that `model` made the vectors without a job in a range of the key; see
        adopt_embeddings in the SQL API."""
        return self._batch(
            AdoptedRows,
            "adopt_embeddings",
            batch,
            **target.arguments,
            model=model,
            width=width,
            after_record=after,
        )

    def _watch_arguments(
        self, table: str, source: str | None, column: str, options: WatchOptions
    ) -> Mapping[str, Any]:
        return {
            "relation": self.relation(table),
            "source": source,
            "embedding_column": column,
            **{name: options.get(name) for name in WatchOptions.__annotations__},
        }

    def full_text_statements(self, target: Target) -> list[str]:
        """Return the statements that build the index over the words of a column, each to be run
        outside of a transaction. None if it has one, or no language."""
        function = "embedding_index_statements"
        arguments = {
            **target.arguments,
            "blocks_writers": False,
        }
        return [row[function] for row in self._postgres.rows(function, arguments, {function: str})]

    def unwatch(self, table: str, column: str, *, source: CallSource = "api") -> bool:
        """Stop keeping `column` in step. False if it was not watched."""
        return bool(
            self._call(
                "unwatch_embeddings",
                watched_table=self.table_name(table),
                embedding_column=column,
                source=source,
            )
        )

    def relation(self, given: str) -> str:
        """Resolve the name of a table: as its exact name, or else as SQL reads it.

        Raises SettingsError if there is none.
        """
        return resolve_table(given, self._to_regclass)

    def _to_regclass(self, name: str) -> str | None:
        query: LiteralString = "select pg_catalog.to_regclass(%s::pg_catalog.text)::pg_catalog.text"
        try:
            found: str | None = self._postgres.value(query, [name])
        except SettingsError:  # psycopg cannot send the name
            return None
        return found

    def _name_of(self, given: str) -> str:
        # Unlike the call, the lookup of an invalid name leaves no error in the log of the server.
        return str(self._call("embedding_table_name", relation=self.relation(given)))

    # -- searches of others

    def search_as(
        self, caller: Caller, function: MatchFunction, arguments: Mapping[str, Any]
    ) -> list[Match]:
        """Search by a match function, with the rights of a caller.

        Raises CallerRefused if the caller may not call it, and SettingsError if we cannot act as
        the role of the caller.
        """
        return function.matches_of(self._postgres.rows_as(caller, function, arguments))

    # -- the connection

    def session(self) -> Session | None:
        found = self._postgres.value(
            "select pg_catalog.to_jsonb(session) from ("
            "select current_user::pg_catalog.text as role,"
            " pg_catalog.current_setting('server_version') as server_version,"
            " pg_catalog.has_function_privilege(pg_catalog.to_regproc('public.claim_embeddings')"
            "  ::pg_catalog.oid, 'execute') as may_work,"
            " (select extnamespace::pg_catalog.regnamespace::pg_catalog.name"
            "         = any (pg_catalog.current_schemas(true))"
            "    from pg_catalog.pg_extension where extname = 'vector') as finds_vector"
            ") as session"
        )
        return Session(**found)

    def clock(self) -> datetime:
        now: datetime = self._postgres.value("select pg_catalog.clock_timestamp()")
        return now
