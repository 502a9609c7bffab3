"""Translates errors of the database into WorkerErrors, by their SQLSTATE.

A connection and the Data API report the same errors. Only a connection also reports the context of
an error, which says where it was raised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from worker.errors import (
    Busy,
    DatabaseError,
    SchemaError,
    SettingsError,
    StatementTimeout,
    Unreachable,
    WorkerError,
)

ONE_OF_A_NAME = (
    "Find the other with `\\df public.NAME` in psql, and drop it: it does not belong to the owner"
    " of the SQL API."
)

# Temporary failures: connection, conflict, lack of space or memory, shutdown.
_PASSING = re.compile("08|40|53|57|58")
# Errors that end a session; Supabase's pooler reports a lost backend as XX000. The Data API does
# not say whether a session ended.
_SESSION_ENDED = re.compile("25P03|25P04|XX000")
_UNDEFINED = ("42883", "42703", "42P01")  # a function, a column, a table
# Raised by the functions that the Data API can call.
_OF_THE_API = ("22000", "22023", "2201B", "42704")
_WITHOUT_VALUES = ("22023", "2201B")  # of those, no matter which function raises them
# Only messages of these states may contain values. Others name objects, and contain values only in
# their detail.
_MAY_HOLD_VALUES = re.compile("2[12]|38|39|P0|XX|3D|3F|0A|42(601|602|622|703|704|883|P01)")
# The first line of the context says where it happened. In every language of the server, that line
# has PL/pgSQL, the name of the function, its arguments, and the statement at its end.
_FUNCTION_OF_OURS = (
    r"[^\n(\"]*PL/pgSQL[^\n(\"]*(?<![A-Za-z0-9_$.])(embedding\.|public\.\w*embedding)"
)
_OURS = re.compile("$|" + _FUNCTION_OF_OURS)
_RAISED_BY_US = re.compile(_FUNCTION_OF_OURS + r"[^\n]* RAISE(\n|$)")
_OF_A_USER = re.compile(r"PL/(?!pgSQL)|PL/pgSQL[^\n]* (RAISE|ASSERT)(\n|$)")


@dataclass(frozen=True, slots=True)
class DatabaseMessage:
    """An error as the database reports it.

    `context` says where it was raised: empty if the statement itself failed, None if that is not
    known. `ends_session`: whether the database closed the connection, where that is known.
    `of_the_api`: whether the statement names only what our SQL API defines.
    """

    sqlstate: str
    message: str
    hint: str | None
    context: str | None
    ends_session: bool = False
    of_the_api: bool = False


@dataclass(frozen=True, slots=True)
class Wording:
    """Texts of errors that are fixed differently over a connection and over the Data API.

    Each is the beginning of the cause, and the hint.
    """

    failed: tuple[str, str]
    slow: tuple[str, str]
    denied: tuple[str, str]
    lacking: tuple[str, str]


def translate_error(said: DatabaseMessage, wording: Wording) -> WorkerError:
    """Translate an error of the database.

    It is a SettingsError only if our own SQL API raised it on purpose.
    """
    message = one_line(without_values(said))
    match said.sqlstate:
        case "55P03":
            return Busy(message, None if raised_by_a_user(said.context or "") else said.hint)
        case "57014":
            return StatementTimeout(wording.slow[0] + message, wording.slow[1])
        case "25006":
            return takes_no_writes(one_line(said.message))
        case "42725":
            return SchemaError(f"two functions have the same name: {message}", ONE_OF_A_NAME)
    if _names_what_is_missing(said):
        return SchemaError(wording.lacking[0] + message, wording.lacking[1])
    if _PASSING.match(said.sqlstate) or _ended_session(said):
        return Unreachable(wording.failed[0] + message, wording.failed[1])
    hint = None if raised_by_a_user(said.context or "") else said.hint
    if raised_by_us(said):
        return SettingsError(message, hint)
    if said.sqlstate == "42501":
        # Without a context, the hint may be that of PostgREST, to grant the right to a wrong key.
        hint = wording.denied[1] if said.context is None else hint or wording.denied[1]
        message = wording.denied[0] + message
    return DatabaseError(_with_sqlstate(message, said.sqlstate), hint)


def _names_what_is_missing(said: DatabaseMessage) -> bool:
    """Whether a statement itself names a part of our SQL API that the database lacks."""
    states = _UNDEFINED if said.of_the_api else _UNDEFINED[:1]
    return said.sqlstate in states and not said.context


def _ended_session(said: DatabaseMessage) -> bool:
    return said.ends_session or (said.context is None and bool(_SESSION_ENDED.match(said.sqlstate)))


def raised_by_us(said: DatabaseMessage) -> bool:
    """Whether our SQL API raised the error on purpose, to refuse a request.

    Where the context is not known, the SQLSTATE decides.
    """
    if said.context is None:
        return said.sqlstate in _OF_THE_API
    return bool(_RAISED_BY_US.match(said.context))


def raised_by_a_user(context: str) -> bool:
    """Whether a function that is not ours chose the words of an error."""
    return not _OURS.match(context) and bool(_OF_A_USER.match(context))


def without_values(said: DatabaseMessage) -> str:
    """Return the message without the values of rows that it may hold.

    embedding.describe_error does the same in the database.
    """
    state, message, context = said.sqlstate, said.message, said.context
    if context is not None:
        if raised_by_a_user(context):
            return f"SQLSTATE {state}: {context.partition(chr(10))[0]}"
        if _OURS.match(context):
            return message
    elif state in _WITHOUT_VALUES:
        return message
    if not _MAY_HOLD_VALUES.match(state):
        return message
    if context is None and state.startswith("P0"):
        return f"SQLSTATE {state}"
    return re.sub('(["«»„“”]|0x).*', '"..."', message, flags=re.DOTALL)


def takes_no_writes(message: str) -> Unreachable:
    """The error for a database that is read-only at the moment."""
    return Unreachable(
        f"the database takes no writes: {message}",
        "It is a standby, or its host made it read-only, as Supabase does when the disk is full."
        " `worker doctor` says what to run.",
    )


def one_line(message: str) -> str:
    """A message of a server, without its line breaks."""
    return " ".join(message.split())


def _with_sqlstate(message: str, sqlstate: str) -> str:
    state = f"SQLSTATE {sqlstate}"
    return message if state in message else f"{message} ({state})"
