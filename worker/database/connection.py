"""A connection to Postgres that is opened again after it was lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.datetime import TimestamptzBinaryLoader
from psycopg.types.numeric import NumericBinaryLoader

from worker.database.migrations import MIGRATE
from worker.database.times import nearest_time
from worker.database.translation import DatabaseMessage, Wording, one_line, translate_error
from worker.errors import SettingsError, Unreachable

CONNECT_TIMEOUT = 10  # seconds
TAKEOVERS = 5  # attempts: by chance, a pooler may give us the same backend twice
BACKEND = "select pg_catalog.pg_backend_pid()"
# Unless the URL says otherwise: a host that vanished is noticed after a minute, not after hours.
SIGNS_OF_LIFE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}

WORDING = Wording(
    failed=(
        "the connection to the database failed: ",
        "Nothing is lost: jobs that were claimed are due again when their lease runs out.",
    ),
    slow=(
        "the database ended a statement: ",
        "Nothing is lost. Raise the statement_timeout of the role if this happens again.",
    ),
    denied=("", "Connect as the owner of the table, or grant the right."),
    lacking=("this database lacks part of the SQL API: ", MIGRATE),
)


class PostgresConnection:
    """A connection to the database at `url`, in autocommit, without prepared statements.

    So it works the same through a pooler in transaction mode. It is used by one thread at a time.
    """

    def __init__(self, url: str, application_name: str) -> None:
        """Connect. Raises Unreachable, or SettingsError if the URL cannot be used."""
        self._url = url
        self._application_name = application_name
        self._open = self.another()

    @property
    def current(self) -> psycopg.Connection[Any]:
        """The connection; a new one if it was lost or is read-only.

        A session that began as read-only stays so, even when the database takes writes again.
        """
        if self._open.closed or _is_read_only(self._open):
            self._open.close()
            self._open = self.another()
        return self._open

    def another(self) -> psycopg.Connection[Any]:
        """Open another connection, beside the current one."""
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
        except psycopg.OperationalError as problem:
            reason = one_line(str(problem)).removeprefix("connection failed: ")
            raise Unreachable(
                f"the database cannot be reached: {reason}",
                "Check DATABASE_URL, and that the server is up and lets this host in.",
            ) from None
        except psycopg.ProgrammingError as problem:
            raise self._unusable_url(one_line(str(problem))) from None
        connection.adapters.register_loader("timestamptz", _AnyTime)
        connection.adapters.register_loader("numeric", _Float)
        return connection

    def beside(self) -> PostgresConnection:
        """Connect to the same database once more, for another thread."""
        return PostgresConnection(self._url, self._application_name)

    def is_direct(self) -> bool:
        """Whether no pooler is in between: the backend is that which accepted the connection."""
        with translated():
            return self._backend_of(self.current) == self.current.info.backend_pid

    def keeps_session(self) -> bool:
        """Whether all statements run in one session, as they do not behind a pooler in transaction
        mode. There, another connection gets our backend, or we get another one meanwhile.

        It changes nothing in a session, because it may belong to other clients.
        """
        if self.is_direct():
            return True
        with translated(), self.another() as other:
            ours = self._backend_of(self.current)
            for _ in range(TAKEOVERS):
                with other.transaction():
                    theirs = self._backend_of(other)
                    if theirs == ours or self._backend_of(self.current) != ours:
                        return False
        return True

    @staticmethod
    def _backend_of(connection: psycopg.Connection[Any]) -> int:
        [backend] = connection.execute(BACKEND).fetchone() or [0]
        return int(backend)

    def run_script(self, sql: str) -> None:
        """Run the statements of an SQL file, all or none."""
        with translated():
            self.current.execute(sql.encode())

    def close(self) -> None:
        self._open.close()

    def _unusable_url(self, reason: str) -> SettingsError:
        """The error for a URL that psycopg does not understand.

        The reason may repeat the URL with its password, so it is left out. A reason about a
        parameter is safe, unless an @ after the question mark makes that part of the password.
        """
        if "URI query parameter" in reason and "@" not in self._url.partition("?")[2]:
            return SettingsError(
                f"DATABASE_URL: {reason}",
                "Remove what is not a parameter of Postgres from the end of DATABASE_URL.",
            )
        return SettingsError(
            "DATABASE_URL is not a connection string that Postgres understands",
            "It looks like postgresql://user:password@host:5432/database; write special "
            "characters of the password as %XX.",
        )


def _is_read_only(connection: psycopg.Connection[Any]) -> bool:
    return connection.info.parameter_status("default_transaction_read_only") == "on"


@contextmanager
def translated(*, of_the_api: bool = False) -> Iterator[None]:
    """Translate the errors of psycopg into WorkerErrors.

    `of_the_api`: the statement names only what our SQL API defines.
    """
    try:
        yield
    except UnicodeEncodeError as problem:
        raise SettingsError(
            "a name or text holds bytes that are not UTF-8", "Check what the terminal sent."
        ) from problem
    except psycopg.Error as problem:
        if problem.sqlstate is None:
            raise _raised_by_psycopg(problem) from None
        raise translate_error(_message_of(problem, problem.sqlstate, of_the_api), WORDING) from None


def _message_of(problem: psycopg.Error, sqlstate: str, of_the_api: bool) -> DatabaseMessage:
    return DatabaseMessage(
        sqlstate,
        problem.diag.message_primary or _first_line(problem),
        problem.diag.message_hint,
        problem.diag.context or "",
        ends_session=problem.diag.severity_nonlocalized in ("FATAL", "PANIC"),
        of_the_api=of_the_api,
    )


def _raised_by_psycopg(problem: psycopg.Error) -> Unreachable | SettingsError:
    """Translate an error without SQLSTATE: no connection, or a text that psycopg cannot send."""
    said = one_line(_first_line(problem))
    if isinstance(problem, psycopg.OperationalError | psycopg.InterfaceError):
        return Unreachable(WORDING.failed[0] + said, WORDING.failed[1])
    return SettingsError(said)


def _first_line(problem: psycopg.Error) -> str:
    return str(problem).partition("\n")[0]


class _AnyTime(TimestamptzBinaryLoader):
    """Reads a time. One that Python cannot represent, like `infinity`, becomes the nearest."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            # microseconds since 2000, signed and in network order
            return nearest_time("-" if bytes(data)[0] & 0x80 else "+")


class _Float(NumericBinaryLoader):
    """Reads a numeric as a float, as JSON has it."""

    def load(self, data: Buffer) -> float:  # type: ignore[override]
        return float(super().load(data))
