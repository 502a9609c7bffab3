"""The SQL API over psycopg: calls with the exact types of all arguments, and vectors in binary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from select import select
from struct import Struct
from typing import Any, LiteralString

import numpy as np
import orjson
import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.rows import dict_row, scalar_row
from psycopg.types import TypeInfo
from psycopg.types.json import Jsonb

from worker.database.connection import PostgresConnection, translated
from worker.errors import CallerRefused, SettingsError
from worker.queue.callers import Caller
from worker.queue.functions import FUNCTIONS, STATEMENT_TIMEOUTS, arguments_of, call, placeholder
from worker.queue.search import MatchFunction
from worker.queue.transports import Columns, Row, Vector, bytea_array

# As the Data API does before a call. A search in somebody's name changes nothing.
AS_CALLER = (
    "select pg_catalog.set_config('transaction_read_only', 'on', true),"
    " pg_catalog.set_config('statement_timeout', '8s', true),"
    " pg_catalog.set_config('request.jwt.claims', %(claims)s::pg_catalog.text, true),"
    " pg_catalog.set_config('request.jwt.claim.sub', %(user)s::pg_catalog.text, true),"
    " pg_catalog.set_config('request.jwt.claim.role', %(role)s::pg_catalog.text, true),"
    " pg_catalog.set_config('role', %(role)s::pg_catalog.text, true)"
)
PROBED_FOR = 1.0  # seconds that a notification may take through a pooler

Connection = psycopg.Connection[Any]


class PostgresTransport:
    """Calls the SQL API in the database behind `database`."""

    cuts_answers = False

    def __init__(self, database: PostgresConnection) -> None:
        self._database = database
        self._knows_vectors: Connection | None = None
        self._asked: Connection | None = None
        self._listens = False

    def call(self, function: LiteralString, arguments: Mapping[str, Any]) -> Any:
        query = "select " + call(function)
        with (
            self._limited(function) as connection,
            connection.cursor(row_factory=scalar_row) as cursor,
        ):
            return cursor.execute(query, _encoded(function, arguments), binary=True).fetchone()

    def rows(
        self, function: LiteralString, arguments: Mapping[str, Any], columns: Columns
    ) -> list[Row]:
        query = _select(call(function), tuple(columns))
        with (
            self._limited(function, *columns.values()) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(query, _encoded(function, arguments), binary=True).fetchall()

    def read(self, view: LiteralString, columns: Columns, *order: str) -> list[Row]:
        query = _select("public." + view, tuple(columns), order)
        connection = self._database.current
        with (
            translated(of_the_api=True),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            # in binary: the text of a time depends on the DateStyle of the session
            return cursor.execute(query, binary=True).fetchall()

    def value(self, query: LiteralString, parameters: Sequence[Any] = ()) -> Any:
        """Return the value of a statement that is not a call of the SQL API."""
        with translated(), self._database.current.cursor(row_factory=scalar_row) as cursor:
            return cursor.execute(query, parameters, binary=True).fetchone()

    def rows_as(
        self, caller: Caller, function: MatchFunction, arguments: Mapping[str, Any]
    ) -> list[Row]:
        """Return the rows of a match function, as JSON, which runs with the rights of a caller.

        Raises CallerRefused if the caller may not call it.
        """
        connection = self._database.current
        self._prepare_vectors(connection, ["vector"])
        types = function.arguments
        query = sql.SQL("select pg_catalog.to_jsonb(found) from {}.{}({}) as found").format(
            sql.Identifier(function.schema_name),
            sql.Identifier(function.function_name),
            sql.SQL(", ").join(
                sql.SQL(f"{name} => {placeholder(name, type_)}") for name, type_ in types.items()
            ),
        )
        values = {name: _encode(type_, arguments[name]) for name, type_ in types.items()}
        with translated(), connection.transaction(), connection.cursor() as cursor:
            try:
                cursor.execute(AS_CALLER, _settings_of(caller))
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue):
                raise SettingsError(
                    f"the role of DATABASE_URL cannot act as {caller.role}",
                    f"Grant it: grant {caller.role} to the role of DATABASE_URL.",
                ) from None
            try:
                return [row for (row,) in cursor.execute(query, values, binary=True)]
            except psycopg.errors.InsufficientPrivilege as problem:
                cause = (problem.diag.message_primary or "a right is missing").strip()
                raise CallerRefused(cause, is_known=True) from None

    def listen(self) -> bool:
        connection = self._database.current
        if connection is not self._asked:
            with translated():
                self._listens = self._can_listen(connection)
            self._asked = connection
        return self._listens

    def wait(self, seconds: float) -> bool:
        connection = self._database.current
        with translated():
            # psycopg would wake up ten times a second
            return _has_heard(connection) or (
                bool(select([connection.fileno()], [], [], seconds)[0]) and _has_heard(connection)
            )

    def storable(self, words: str | None) -> str | None:
        if words is None or self._encoding == "UTF8":
            return words
        return words.encode("ascii", "replace").decode()

    @property
    def _encoding(self) -> str | None:
        return self._database.current.info.parameter_status("server_encoding")

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _limited(self, function: str, *result_types: Any) -> Iterator[Connection]:
        """Yield the connection for a call, with the statement timeout of a function that has its
        own. It knows vectors if the arguments or the result have any."""
        connection = self._database.current
        self._prepare_vectors(connection, [*FUNCTIONS[function].values(), *result_types])
        timeout = STATEMENT_TIMEOUTS.get(function)
        with translated(of_the_api=True):
            if timeout is None:
                yield connection
                return
            with connection.transaction():
                connection.execute(
                    "select pg_catalog.set_config('statement_timeout', %s::pg_catalog.text, true)",
                    [timeout],
                )
                yield connection

    def _can_listen(self, connection: Connection) -> bool:
        """Make the connection listen, if a LISTEN lasts: a pooler may change the backend each time.

        Behind a pooler, a second connection tests it: first whether we keep our session, so that we
        never make a backend of other clients listen; then with a notification.
        """
        if self._database.is_direct():
            connection.execute("set idle_session_timeout = 0")  # it may wait for hours
            connection.execute("listen embedding_queue")
            return True
        if not self._database.keeps_session():
            return False
        with self._database.another() as other:
            connection.execute("listen embedding_queue")
            other.execute("notify embedding_queue")
            return bool(list(connection.notifies(timeout=PROBED_FOR, stop_after=1)))

    def _prepare_vectors(self, connection: Connection, types: Iterable[Any]) -> None:
        """Register vectors in binary on the connection, once, if these types have any.

        The type is known by its oid, since a worker may have no rights on its schema.
        """
        if connection is self._knows_vectors or not any(map(_is_vector, types)):
            return
        with translated():
            oid, array_oid = connection.execute(
                "select type.oid, type.typarray from pg_catalog.pg_type as type"
                " join pg_catalog.pg_extension as extension"
                " on extension.extnamespace = type.typnamespace"
                " where extension.extname = 'vector' and type.typname = 'vector'"
            ).fetchone() or (0, 0)
            register_vector_info(connection, TypeInfo("vector", oid, array_oid))
            connection.adapters.register_loader(oid, _AsArray)
            connection.adapters.register_dumper(_Vectors, _vectors_dumper(oid, array_oid))
            connection.adapters.register_dumper(_NoVector, _no_vector_dumper(oid))
        self._knows_vectors = connection


def _settings_of(caller: Caller) -> dict[str, str]:
    """What row level security reads. Older policies read single claims."""
    user = str(caller.claims.get("sub") or "")
    return {"claims": json.dumps(dict(caller.claims)), "user": user, "role": caller.role}


class _AsArray(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Vector:
        return np.frombuffer(data, ">f4", offset=4).astype(np.float32)  # after width and flags


class _NoVector:
    """The null of type `vector`: of an unknown type it could fit functions of other roles."""


class _NoVectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _NoVector) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Vectors:
    """The values of a `vector[]`."""

    rows: Sequence[Vector]


class _VectorsDumper(Dumper):
    """Writes vectors as Postgres reads them, which takes a third of the time of psycopg's list of
    pgvector's vectors."""

    format = Format.BINARY
    element_oid = 0
    # of the array: dimensions, nulls, type, length, first index; of a vector: bytes, width, unused
    _head = Struct(">iiIii")
    _head_of_row = Struct(">iHH")

    def dump(self, obj: _Vectors) -> Buffer:
        parts: list[Buffer] = [self._head.pack(1, 0, self.element_oid, len(obj.rows), 1)]
        for row in obj.rows:
            parts.append(self._head_of_row.pack(4 + 4 * len(row), len(row), 0))
            parts.append(row.astype(">f4").data)
        return b"".join(parts)


@cache  # psycopg keeps every class that it has seen
def _vectors_dumper(oid: int, array_oid: int) -> type[_VectorsDumper]:
    return type("", (_VectorsDumper,), {"oid": array_oid, "element_oid": oid})


@cache
def _no_vector_dumper(oid: int) -> type[_NoVectorDumper]:
    return type("", (_NoVectorDumper,), {"oid": oid})


def _is_vector(type_: Any) -> bool:
    return type_ in ("vector", "vector[]") or type_ == Vector


def _encoded(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    types = FUNCTIONS[function]
    return {
        name: _encode(types[name], value)
        for name, value in arguments_of(function, arguments).items()
    }


def _encode(type_: str, value: Any) -> Any:
    if value is None:
        return _NoVector() if type_ == "vector" else None
    encode = _ENCODERS.get(type_)
    return value if encode is None else encode(value)


def _array(values: Sequence[Any]) -> str:
    """Return an SQL literal. It takes a tenth of the time of psycopg's own lists."""
    return "{" + orjson.dumps(values).decode()[1:-1] + "}"


def _text_array(values: Sequence[str | None]) -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join("null" if value is None else quoted(value) for value in values) + "}"


# By the type of an argument in SQL, for values that psycopg does not know or is slow with.
_ENCODERS: Mapping[str, Callable[[Any], Any]] = {
    "jsonb": Jsonb,
    "bigint[]": _array,
    "integer[]": _array,
    "real[]": _array,
    "uuid[]": _array,
    "text[]": _text_array,
    "bytea[]": bytea_array,
    "vector[]": _Vectors,
}


@cache
def _select(source: LiteralString, columns: Sequence[str], order: Sequence[str] = ()) -> bytes:
    """Return a SELECT of these columns, as bytes: composing it takes longer than some calls."""
    query = sql.SQL("select {} from ").format(_listed(columns)) + sql.SQL(source)
    if order:
        query += sql.SQL(" order by {}").format(_listed(order))
    return query.as_bytes(None)


def _listed(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _has_heard(connection: Connection) -> bool:
    return bool(list(connection.notifies(timeout=0, stop_after=1)))
