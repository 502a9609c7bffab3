"""What the answers of a Data API mean, by the bodies that its documentation gives."""

from __future__ import annotations

import pytest
from postgrest import APIError

from worker.database.translation import takes_no_writes
from worker.errors import (
    Busy,
    DatabaseError,
    SchemaError,
    SettingsError,
    StatementTimeout,
    Unreachable,
    WorkerError,
)
from worker.queue.transports.rest import MIGRATE, NOTHING_LOST, WHICH_KEY, translate_api_error


def meaning(status: int, code: str | None, message: str = "why", hint: str = "") -> WorkerError:
    return translate_api_error(
        APIError({"code": code, "message": message, "hint": hint or None}), status
    )


@pytest.mark.parametrize(
    ("status", "code", "error", "hint"),
    [
        (401, None, SettingsError, WHICH_KEY),  # of the gateway: Invalid API key
        (401, "PGRST301", SettingsError, WHICH_KEY),  # a token that cannot be decoded
        (401, "PGRST303", SettingsError, WHICH_KEY),  # one that has expired
        (403, "42501", DatabaseError, WHICH_KEY),  # the key of anon
        (404, "PGRST202", SchemaError, MIGRATE),  # no such function
        (404, "PGRST205", SchemaError, MIGRATE),  # no such table
        (500, "55P03", Busy, None),
        (503, "PGRST000", Unreachable, NOTHING_LOST),  # no connection to the database
        (503, "PGRST002", Unreachable, NOTHING_LOST),  # its schema is not read yet
        (504, "PGRST003", Unreachable, NOTHING_LOST),  # no connection of the pool in time
        (500, "57P01", Unreachable, NOTHING_LOST),  # the database is shut down
        (500, "53100", Unreachable, NOTHING_LOST),  # its disk is full
        (405, "25006", Unreachable, takes_no_writes("why").hint),
        (502, "502", Unreachable, NOTHING_LOST),  # of a gateway, in HTML
        (540, "540", Unreachable, NOTHING_LOST),  # the project is paused
        (429, "429", Unreachable, NOTHING_LOST),
    ],
)
def test_an_answer_is_told_by_its_code_and_status(
    status: int, code: str | None, error: type[WorkerError], hint: str | None
) -> None:
    found = meaning(status, code)
    assert type(found) is error
    assert "why" in found.cause
    assert found.hint == hint


def test_a_statement_that_took_too_long_is_told_from_other_failures_that_pass() -> None:
    found = meaning(500, "57014", "canceling statement due to statement timeout")
    assert isinstance(found, StatementTimeout)
    assert "alter role authenticator set statement_timeout" in str(found.hint)


def test_a_schema_that_is_not_served_is_told_with_where_to_add_it() -> None:
    assert "exposed schemas" in str(meaning(406, "PGRST106").hint)


def test_an_address_that_is_no_data_api_is_told() -> None:
    assert "does not lead to a Data API" in meaning(404, "404", "Not Found").cause
    assert "does not lead to a Data API" in meaning(404, None, "requested path is invalid").cause


def test_what_the_database_says_comes_as_it_is_on_one_line() -> None:
    found = meaning(400, "42704", "column x of table y\nis not watched", "Register it first.")
    assert type(found) is SettingsError
    assert found.cause == "column x of table y is not watched"
    assert found.hint == "Register it first."


@pytest.mark.parametrize("code", ["42703", "P0001", "XX001", "23514"])
def test_what_the_sql_api_did_not_refuse_is_an_error_of_the_database(code: str) -> None:
    found = meaning(500, code)
    assert (type(found), found.exit_code) == (DatabaseError, 1)
    assert f"SQLSTATE {code}" in found.cause


@pytest.mark.parametrize("code", ["XX000", "25P03", "25P04", "57P01"])
def test_a_session_that_ended_is_an_outage(code: str) -> None:
    assert type(meaning(500, code)) is Unreachable
