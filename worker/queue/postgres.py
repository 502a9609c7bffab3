"""The queue over psycopg: each method is one call of the SQL API.

One connection, in autocommit, without prepared statements or session state: so it works the same
through a pooler in transaction mode. It is used by one thread at a time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from select import select
from typing import Any, LiteralString, TypeVar, Unpack
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.types import TypeInfo
from psycopg.types.datetime import TimestamptzBinaryLoader
from psycopg.types.json import Jsonb

from worker.database.migrations import Migration, check_version
from worker.errors import Busy, SchemaError, SettingsError, StatementTimeout, Unreachable
from worker.host import resident_mb
from worker.queue import (
    Cached,
    Claim,
    Command,
    Completion,
    DatabaseLoad,
    DesiredState,
    Estimate,
    Failure,
    Finding,
    Job,
    JobId,
    LeaseKey,
    ListedJob,
    Match,
    QueueProgress,
    Rechecked,
    Refusal,
    Report,
    Reprocessed,
    Scope,
    Session,
    StandingCommand,
    Stats,
    StoppedProvider,
    Target,
    TargetStatus,
    WatchOptions,
    WatchPreview,
    WorkerStatus,
    nearest_time,
    no_such_table,
    one_line,
    takes_no_writes,
    watched_by,
    whole,
)
from worker.queue.functions import (
    ONE_OF_A_NAME,
    arguments_of,
    call,
    raised_by_a_user,
    without_values,
)
from worker.queue.portion import Portion

CONNECT_TIMEOUT = 10  # seconds
STRETCH_TIMEOUT = "1min"  # for the texts that a pattern is compared with in one call
PROBED_FOR = 1.0  # seconds that a notification may take through a pooler
# Unless the URL says otherwise: a host that vanished is noticed after a minute, not after hours.
SIGNS_OF_LIFE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}

TARGET: LiteralString = (
    "table_name, embedding_column, source, filter, model, model_is_default, dimensions, enabled,"
    " problem"
)
RESTORED_IN_PART = (
    "Most likely a dump was restored in part. docs/troubleshooting.md says how to restore the rest,"
    " or how to begin again."
)

Row = TypeVar("Row")
Parameters = Sequence[Any] | Mapping[str, Any]


class _AnyTime(TimestamptzBinaryLoader):
    """Reads a time, and one that Python has no date for, like `infinity`, as the nearest."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            # microseconds since 2000, signed and in network order
            return nearest_time("-" if bytes(data)[0] & 0x80 else "+")


class PostgresQueue:
    """The queue in the database at `url`, and everything else the SQL API offers.

    Unless said otherwise, methods raise Unreachable if the database is out of reach (the next call
    connects anew), and
    SettingsError, with the database's own sentence, if what they were asked makes no sense to it.
    """

    def __init__(self, url: str, application_name: str) -> None:
        """Connect. Nothing is said of the schema yet. Raises Unreachable, or SettingsError."""
        self._url = url
        self._application_name = application_name
        self._open = self._connect()
        self._vectors_registered = False
        self._listens: bool | None = None  # None: nobody has asked yet
        self._portion = Portion()  # jobs in one call

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            given = conninfo_to_dict(self._url)
            if "@" in str(given.get("host")):
                raise psycopg.ProgrammingError("an @ of the password was taken for its end")
            connection = psycopg.connect(
                make_conninfo("", **(SIGNS_OF_LIFE | given)),
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=CONNECT_TIMEOUT,
                application_name=self._application_name,
                client_encoding="UTF8",  # whatever PGCLIENTENCODING, the role and the database say
            )
            connection.adapters.register_loader("timestamptz", _AnyTime)
            return connection
        except psycopg.OperationalError as problem:
            reason = one_line(str(problem)).removeprefix("connection failed: ")
            raise Unreachable(
                f"the database cannot be reached: {reason}",
                "Check DATABASE_URL, and that the server is up and lets this host in.",
            ) from None
        except psycopg.ProgrammingError as problem:
            # Its message may repeat the URL, and with it the password: not what it says of a
            # parameter, unless an @ behind the question mark makes that a part of the password.
            said = one_line(str(problem))
            if "URI query parameter" in said and "@" not in self._url.partition("?")[2]:
                raise SettingsError(
                    f"DATABASE_URL: {said}",
                    "Remove what is not a parameter of Postgres from the end of DATABASE_URL.",
                ) from None
            raise SettingsError(
                "DATABASE_URL is not a connection string that Postgres understands",
                "It looks like postgresql://user:password@host:5432/database; write special "
                "characters of the password as %XX.",
            ) from None

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        """The connection; a new one if it was lost.

        One that began as read-only stays so, even when the database takes writes again.
        """
        is_read_only = self._open.info.parameter_status("default_transaction_read_only") == "on"
        if self._open.closed or is_read_only:
            self._open.close()
            self._open = self._connect()
            self._vectors_registered = False
            self._listens = None
        return self._open

    def __enter__(self) -> PostgresQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # -- the schema

    def check_schema(self) -> None:
        exists = self._value(
            "select pg_catalog.to_regprocedure('public.embedding_schema_version()') is not null"
        )
        if not exists and self._value("select to_regclass('public.embedding_queue') is not null"):
            raise SchemaError(
                "this database has tables of embedding-worker, but not its functions",
                RESTORED_IN_PART,
            )
        check_version(self._call("embedding_schema_version", {}) if exists else None)

    def applied_migrations(self) -> dict[str, str | None]:
        """Version and name of each in the history table, which is that of the Supabase CLI."""
        if self._value(
            "select pg_catalog.to_regclass('supabase_migrations.schema_migrations') is null"
        ):
            return {}
        history: dict[str, str | None] = self._value(
            "select coalesce(jsonb_object_agg(version, name), '{}')"
            " from supabase_migrations.schema_migrations"
        )
        return history

    def apply(self, migration: Migration) -> None:
        """Run a migration and enter it into the history: both or neither."""
        with _translated(), self._connection.transaction():
            self._connection.execute("create schema if not exists supabase_migrations")
            self._connection.execute(
                "create table if not exists supabase_migrations.schema_migrations"
                " (version text primary key, statements text[], name text)"
            )
            try:
                self._connection.execute(migration.sql.encode())
            except _DUPLICATES as problem:
                raise SettingsError(
                    f"the history of migrations lacks {migration.version}_{migration.name},"
                    f" but part of it is there: {one_line(str(problem.diag.message_primary))}",
                    problem.diag.message_hint or RESTORED_IN_PART,
                ) from problem
            self._connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name)"
                " values (%s, %s, %s)",
                [migration.version, [migration.sql], migration.name],
            )

    def reenter(self, version: str, migration: Migration) -> None:
        """What the history has under a version, it has as this migration from now on."""
        with _translated():
            self._connection.execute(
                "with entry as (delete from supabase_migrations.schema_migrations"
                "                where version = %s and version <> %s returning statements)"
                " insert into supabase_migrations.schema_migrations (version, statements, name)"
                " select %s, statements, %s from entry on conflict do nothing",
                [version, migration.version, migration.version, migration.name],
            )

    def run_script(self, sql: str) -> None:
        """Run the statements of an SQL file, all or none."""
        with _translated():
            self._connection.execute(sql.encode())

    # -- the targets

    def targets(self, table: str | None = None, column: str | None = None) -> list[Target]:
        name = self.table_name(table) if table is not None else None
        every = self._rows(
            Target,
            "select " + TARGET + " from public.embedding_targets"
            " order by table_name, embedding_column",
        )
        return watched_by(every, name, column)

    def target(self, table: str, column: str) -> Target:
        return self.targets(table, column)[0]

    def table_name(self, given: str) -> str:
        """The name under which a table is watched, for a name as somebody typed it.

        A table that was dropped is known by the name it was watched under. Raises SettingsError.
        """
        watched = "select exists (select from public.embedding_targets where table_name = %s)"
        if self._value(watched, [given]):
            return given
        return str(self._call("embedding_table_name", {"relation": self.relation(given)}))

    def relation(self, given: str) -> str:
        """The table that somebody means: by its exact name, or else as SQL reads what they typed.

        Raises SettingsError if there is none.
        """
        for lookup in (
            "select pg_catalog.to_regclass("
            "pg_catalog.quote_ident(%s::pg_catalog.text))::pg_catalog.text",
            "select pg_catalog.to_regclass(%s::pg_catalog.text)::pg_catalog.text",
        ):
            try:
                relation = self._value(lookup, [given])
            except SettingsError:  # not even a name
                continue
            if relation is not None:
                return str(relation)
        raise no_such_table(given)

    def watch(
        self, table: str, source: str | None, column: str, **options: Unpack[WatchOptions]
    ) -> Target:
        """Keep `column` in step with `source`; see watch_embeddings in the SQL API."""
        return self._called(
            Target,
            TARGET,
            "watch_embeddings",
            self._watch_arguments(table, source, column, options),
        )[0]

    def _watch_arguments(
        self, table: str, source: str | None, column: str, options: WatchOptions
    ) -> dict[str, Any]:
        return {
            "relation": self.relation(table),
            "source": source,
            "embedding_column": column,
            **{name: options.get(name) for name in WatchOptions.__annotations__},
        }

    def preview_watch(
        self,
        table: str,
        source: str | None,
        column: str,
        default_model: str,
        **options: Unpack[WatchOptions],
    ) -> WatchPreview:
        """What `watch` would change. Changes nothing."""
        return self._called(
            WatchPreview,
            "is_watched, width, changes, to_embed",
            "preview_watch_embeddings",
            self._watch_arguments(table, source, column, options)
            | {"default_model": default_model},
        )[0]

    def unwatch(self, table: str, column: str) -> bool:
        """Stop keeping `column` in step. False if it was not watched."""
        watched_table = self.table_name(table)
        return bool(
            self._call(
                "unwatch_embeddings", {"watched_table": watched_table, "embedding_column": column}
            )
        )

    # -- the operator's side: the AdminQueue protocol

    def backfill(self, target: Target, batch: int) -> int:
        return int(
            self._call(
                "backfill_embeddings",
                {
                    "watched_table": target.table_name,
                    "embedding_column": target.embedding_column,
                    "batch": batch,
                },
            )
        )

    def requeue(
        self,
        *,
        status: str | None,
        table: str | None = None,
        column: str | None = None,
        record: str | None = None,
        error_class: str | None = None,
    ) -> int:
        return int(
            self._call(
                "requeue_embeddings",
                {
                    "only_status": status,
                    "only_table": table,
                    "only_column": column,
                    "only_record": record,
                    "only_error_class": error_class,
                },
            )
        )

    def list_jobs(
        self, statuses: Sequence[str], table: str | None, column: str | None, limit: int
    ) -> list[ListedJob]:
        return self._called(
            ListedJob,
            "table_name, embedding_column, record_id, status, attempts, available_at,"
            " lease_expires_at, worker, error_class, error_message, updated_at, preview",
            "list_embeddings",
            {
                "statuses": list(statuses),
                "only_table": table,
                "only_column": column,
                "max_rows": limit,
            },
        )

    def reprocess(
        self, pattern: str, table: str | None, column: str | None, after: int, *, dry_run: bool
    ) -> Reprocessed:
        # The timeout of a function is taken from it by the Data API alone.
        with _translated(), self._connection.transaction():
            self._value(
                "select pg_catalog.set_config('statement_timeout', %s::pg_catalog.text, true)",
                [STRETCH_TIMEOUT],
            )
            return self._called(
                Reprocessed,
                "matched, looked_to, examples",
                "reprocess_embeddings",
                {
                    "pattern": pattern,
                    "only_table": table,
                    "only_column": column,
                    "after_id": after,
                    "dry_run": dry_run,
                },
            )[0]

    def recheck(
        self, table: str | None, column: str | None, after: int, batch: int, *, dry_run: bool
    ) -> Rechecked:
        return self._called(
            Rechecked,
            "checked, changed, looked_to",
            "recheck_embeddings",
            {
                "only_table": table,
                "only_column": column,
                "after_id": after,
                "batch": batch,
                "dry_run": dry_run,
            },
        )[0]

    def stats(self, since: timedelta) -> Stats:
        return self._called(
            Stats,
            "completed, failed, requests, tokens, cost, request_p50_ms, request_p95_ms,"
            " lag_p50_ms, lag_p95_ms, hours, failures",
            "embedding_stats",
            {"since": since},
        )[0]

    def control(self, desired_state: DesiredState, worker: str | None = None) -> int:
        return int(
            self._call("control_embeddings", {"desired_state": desired_state, "worker": worker})
        )

    def commands(self) -> list[StandingCommand]:
        return self._rows(
            StandingCommand,
            "select worker, desired_state, since from public.embedding_control order by worker",
        )

    def count_due(self, scope: Scope) -> int:
        return int(
            self._call(
                "count_due_embeddings", {"only_table": scope.table, "only_column": scope.column}
            )
        )

    def status(self) -> list[TargetStatus]:
        return self._rows(
            TargetStatus,
            "select table_name, embedding_column, model, enabled, problem, rows, rows_exact,"
            " pending, processing, completed, failed, skipped, coverage::float8, due, oldest_due,"
            " due_exact"
            " from public.embedding_status order by table_name, embedding_column",
        )

    def progress(self) -> QueueProgress:
        return self._rows(
            QueueProgress,
            "select pending, due, oldest_due, rows_per_second, elapsed_seconds, eta_seconds"
            " from public.embedding_progress",
        )[0]

    def workers(self) -> list[WorkerStatus]:
        return self._rows(
            WorkerStatus,
            "select worker, host, pid, state, throttle_level, cause, rss_mb, completed, failed,"
            " started_at, seen_at from public.embedding_workers order by worker",
        )

    def failures(self) -> list[Failure]:
        return self._rows(
            Failure,
            "select table_name, embedding_column, error_class, failed, latest_message, latest_at"
            " from public.embedding_failures order by failed desc, table_name, embedding_column,"
            " error_class",
        )

    def providers(self) -> list[StoppedProvider]:
        return self._rows(
            StoppedProvider,
            "select provider, error, hint, since, seen_at from public.embedding_providers"
            " order by provider",
        )

    def estimate(
        self, default_model: str, table: str | None, column: str | None, missing: bool
    ) -> list[Estimate]:
        return self._called(
            Estimate,
            "table_name, embedding_column, model, dimensions, row_count, bytes, texts",
            "estimate_embeddings",
            {
                "default_model": default_model,
                "only_table": table,
                "only_column": column,
                "missing": missing,
            },
        )

    def rate(self, model: str) -> float | None:
        rate = self._call("embedding_rate", {"model": model})
        return float(rate) if rate else None

    def search(
        self,
        target: Target,
        vector: npt.NDArray[np.float32],
        limit: int,
        model: str | None = None,
    ) -> list[Match]:
        self._register_vectors()
        return self._called(
            Match,
            "record_id, content, distance",
            "search_embeddings",
            {
                "watched_table": target.table_name,
                "embedding_column": target.embedding_column,
                "query": vector,
                "matches": limit,
                "model": model,
            },
        )

    def diagnose(self) -> list[Finding]:
        columns: LiteralString = "level, check_name as check, subject, cause, hint"
        return [
            *self._called(Finding, columns, "diagnose_embeddings", {}),
            *self._called(Finding, columns, "sample_embeddings", {}),
        ]

    def session(self) -> Session | None:
        return self._rows(
            Session,
            "select current_user::pg_catalog.text as role,"
            " pg_catalog.current_setting('server_version') as server_version,"
            " pg_catalog.has_function_privilege(pg_catalog.to_regproc('public.claim_embeddings')"
            "  ::pg_catalog.oid, 'execute') as may_work,"
            " (select extnamespace::pg_catalog.regnamespace::pg_catalog.name"
            "         = any (pg_catalog.current_schemas(true))"
            "    from pg_catalog.pg_extension where extname = 'vector') as finds_vector",
        )[0]

    def clock(self) -> datetime:
        now: datetime = self._value("select pg_catalog.clock_timestamp()")
        return now

    # -- the worker's side: the Queue protocol

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        return self._portion.within_time(batch_size, partial(self._claim, scope, except_targets))

    def _claim(self, scope: Scope, except_targets: Collection[int], batch_size: int) -> Claim:
        arguments = {
            "worker": scope.worker,
            "batch": batch_size,
            "lease_for": scope.lease,
            "default_model": scope.default_model,
            "only_table": scope.table,
            "only_column": scope.column,
            "except_targets": list(except_targets),
        }
        with _translated(), self._connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(
                "select id, target_id, status, table_name, record_id, embedding_column, content,"
                " content_hash, lease, model, dimensions, attempts, isolated, truncate, waited"
                " from " + call("claim_embeddings"),
                arguments_of("claim_embeddings", arguments),
            ).fetchall()
        return Claim.of(rows)

    def extend(self, scope: Scope, jobs: Sequence[Job]) -> set[LeaseKey]:
        arguments = {"worker": scope.worker, **_ids_and_leases(jobs), "lease_for": scope.lease}
        with _translated():
            lost = self._connection.execute(
                "select id, lease from " + call("extend_embeddings"),
                arguments_of("extend_embeddings", arguments),
            )
            return {(JobId(job_id), lease) for job_id, lease in lost.fetchall()}

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        self._register_vectors()
        refused: list[Refusal] = []
        while completions:
            refusals, completions = self._portion.within_time(
                len(completions), partial(self._complete, model, completions)
            )
            refused += refusals
        return refused

    def _complete(
        self, model: str, completions: Sequence[Completion], most: int
    ) -> tuple[list[Refusal], Sequence[Completion]]:
        """Hand in at most so many. Returns what was refused of them, and the rest."""
        completions, rest = completions[:most], completions[most:]
        refused = self._called(
            Refusal,
            "id as job_id, reason",
            "complete_embeddings",
            {
                **_ids_and_leases([completion.job for completion in completions]),
                "hashes": [completion.job.content_hash for completion in completions],
                "vectors": [completion.vector for completion in completions],
                "model": model,
                "tokens": [completion.tokens for completion in completions],
                "truncated_to": [completion.truncated_to for completion in completions],
                "costs": [completion.cost for completion in completions],
            },
        )
        return refused, rest

    def fail(
        self, jobs: Sequence[Job], error_class: str, message: str, retry_in: timedelta | None = None
    ) -> int:
        return int(
            self._call(
                "fail_embeddings",
                {
                    **_ids_and_leases(jobs),
                    "class": error_class,
                    "message": self._storable(message),
                    "retry_in": retry_in,
                },
            )
        )

    def release(
        self,
        jobs: Sequence[Job],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        self._call(
            "release_embeddings",
            {
                **_ids_and_leases(jobs),
                "retry_in": retry_in,
                "reason": self._storable(reason),
                "class": error_class,
                "embedded": embedded,
            },
        )

    def heartbeat(self, scope: Scope, report: Report) -> None:
        self._call(
            "embedding_worker_heartbeat",
            {
                "worker": scope.worker,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "rss_mb": resident_mb(),
                **asdict(report),
                "cause": self._storable(report.cause),
                "usage": Jsonb([asdict(of_model) for of_model in report.usage]),
            },
        )

    def command(self, scope: Scope) -> Command:
        found = self._called(
            Command, "desired_state, since", "embedding_command", {"worker": scope.worker}
        )
        return found[0] if found else Command()

    def load(self) -> DatabaseLoad:
        return self._called(
            DatabaseLoad,
            "active_sessions, max_connections, lock_wait_seconds, vacuumed_table,"
            " replica_lag_seconds",
            "embedding_database_load",
            {},
        )[0]

    def listen(self) -> bool:
        connection = self._connection
        if self._listens is None:
            with _translated():
                self._listens = self._can_listen(connection)
        return self._listens

    def wait(self, seconds: float) -> bool:
        connection = self._connection
        with _translated():
            # psycopg would look ten times a second whether it is to stop
            return _has_heard(connection) or (
                bool(select([connection.fileno()], [], [], seconds)[0]) and _has_heard(connection)
            )

    def _can_listen(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether a LISTEN lasts: not where a pooler gives each transaction another backend.

        Without a pooler, the backend is the one that answered when the connection was made. Behind
        one, a second connection tries: first whether it takes our backend away, so that none that
        serves others is made to listen; then with a notification.
        """
        backend = "select pg_catalog.pg_backend_pid()"
        ours = connection.execute(backend).fetchone()
        if ours == (connection.info.backend_pid,):
            connection.execute("set idle_session_timeout = 0")  # it waits for hours, on purpose
            connection.execute("listen embedding_queue")
            return True
        with self._connect() as other:
            with other.transaction():
                theirs = other.execute(backend).fetchone()
                if theirs == ours or connection.execute(backend).fetchone() != ours:
                    return False
            connection.execute("listen embedding_queue")
            other.execute("notify embedding_queue")
            return bool(list(connection.notifies(timeout=PROBED_FOR, stop_after=1)))

    def deregister(self, scope: Scope) -> None:
        self._call("embedding_worker_deregister", {"worker": scope.worker})

    def report_provider(self, provider: str, error: str | None, hint: str | None = None) -> None:
        self._call(
            "embedding_provider_report",
            {
                "provider": provider,
                "error": self._storable(error),
                "hint": self._storable(hint),
            },
        )

    def announce(self, event: str, subject: str, announcement: UUID) -> bool:
        return bool(
            self._call(
                "announce_embedding_event",
                {"event": event, "subject": subject, "announcement": announcement},
            )
        )

    def cached(self, model: str, dimensions: int, hashes: Sequence[bytes]) -> Cached:
        self._register_vectors()
        arguments = {"model": model, "dimensions": dimensions, "hashes": list(hashes)}
        with _translated():
            found = self._connection.execute(
                "select content_hash, vector, tokens from " + call("cached_embeddings"),
                arguments_of("cached_embeddings", arguments),
                binary=True,
            )
            return {
                content_hash: (vector.to_numpy(), tokens)
                for content_hash, vector, tokens in found.fetchall()
            }

    def cache(self, model: str, completions: Sequence[Completion], cap_mb: int) -> None:
        completions = whole(completions)
        if not completions:
            return
        self._register_vectors()
        self._call(
            "cache_embeddings",
            {
                "model": model,
                "hashes": [completion.job.content_hash for completion in completions],
                "vectors": [completion.vector for completion in completions],
                "tokens": [completion.tokens for completion in completions],
                "cap_mb": cap_mb,
            },
        )

    def _register_vectors(self) -> None:
        """Teach the connection, once, to send vectors as binary.

        Asked for by number: its schema may be one that a worker has no right on.
        """
        connection = self._connection  # first: a new one knows nothing of vectors
        if self._vectors_registered:
            return
        with _translated():
            oid, array_oid = connection.execute(
                "select type.oid, type.typarray from pg_catalog.pg_type as type"
                " join pg_catalog.pg_extension as extension"
                " on extension.extnamespace = type.typnamespace"
                " where extension.extname = 'vector' and type.typname = 'vector'"
            ).fetchone() or (0, 0)
            register_vector_info(connection, TypeInfo("vector", oid, array_oid))
        self._vectors_registered = True

    def _storable(self, words: str | None) -> str | None:
        """What a provider said, without the characters that the database's encoding may lack."""
        if words is None or self._connection.info.parameter_status("server_encoding") == "UTF8":
            return words
        return words.encode("ascii", "replace").decode()

    # -- statements

    def _call(self, function: LiteralString, arguments: Mapping[str, Any]) -> Any:
        """What a function of the SQL API returns."""
        return self._value("select " + call(function), arguments_of(function, arguments))

    def _called(
        self,
        row_class: type[Row],
        columns: LiteralString,
        function: LiteralString,
        arguments: Mapping[str, Any],
    ) -> list[Row]:
        """The rows that a function of the SQL API returns."""
        query = "select " + columns + " from " + call(function)
        return self._rows(row_class, query, arguments_of(function, arguments))

    def _value(self, query: LiteralString, parameters: Parameters = ()) -> Any:
        return self._values(query, parameters)[0]

    def _values(self, query: LiteralString, parameters: Parameters = ()) -> list[Any]:
        with _translated(), self._connection.cursor(row_factory=scalar_row) as cursor:
            return cursor.execute(query, parameters, binary=True).fetchall()

    def _rows(
        self, row_class: type[Row], query: LiteralString, parameters: Parameters = ()
    ) -> list[Row]:
        # in binary: the text of a time depends on the DateStyle of the session
        with _translated(), self._connection.cursor(row_factory=class_row(row_class)) as cursor:
            return cursor.execute(query, parameters, binary=True).fetchall()


# A restart, a failover, a pooler that lets go, a full disk.
_PASSING = (psycopg.OperationalError, psycopg.InterfaceError)
# A part of the schema is there that the history of migrations does not list.
_DUPLICATES = (
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateObject,
)


def _has_heard(connection: psycopg.Connection[Any]) -> bool:
    return bool(list(connection.notifies(timeout=0, stop_after=1)))


def _ids_and_leases(jobs: Sequence[Job]) -> dict[str, Any]:
    return {"ids": [job.id for job in jobs], "leases": [job.lease for job in jobs]}


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what psycopg raises into errors of ours, with the hint of the database if any."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as problem:
        raise Busy(_said(problem)) from None
    except psycopg.errors.QueryCanceled as problem:
        raise StatementTimeout(
            f"the database ended a statement: {_said(problem)}",
            "Nothing is lost. Raise the statement_timeout of the role if this happens again.",
        ) from None
    except psycopg.errors.ReadOnlySqlTransaction as problem:
        raise takes_no_writes(one_line(str(problem.diag.message_primary))) from problem
    except _PASSING as problem:
        raise Unreachable(
            f"the connection to the database failed: {_said(problem)}",
            "Nothing is lost: jobs that were claimed are due again when their lease runs out.",
        ) from None
    except psycopg.errors.InsufficientPrivilege as problem:
        raise SettingsError(
            _said(problem),
            _hint(problem) or "Connect as the owner of the table, or grant the right.",
        ) from None
    except psycopg.errors.AmbiguousFunction as problem:
        raise SchemaError(
            f"two functions have the same name: {_said(problem)}", ONE_OF_A_NAME
        ) from None
    except UnicodeEncodeError as problem:
        raise SettingsError(
            "a name or text holds bytes that are not UTF-8", "Check what the terminal sent."
        ) from problem
    except psycopg.Error as problem:
        raise SettingsError(_said(problem), _hint(problem)) from None


def _said(problem: psycopg.Error) -> str:
    """The message of the database on one line, without values of rows."""
    message = problem.diag.message_primary or str(problem).partition("\n")[0]
    return one_line(without_values(problem.sqlstate or "", message, problem.diag.context or ""))


def _hint(problem: psycopg.Error) -> str | None:
    """Its hint, unless a function of a user gave it."""
    return None if raised_by_a_user(problem.diag.context or "") else problem.diag.message_hint
