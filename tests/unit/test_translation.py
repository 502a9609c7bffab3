"""Which errors of the database are refusals of our SQL API: those that it raised on purpose."""

from __future__ import annotations

import pytest

from worker.database.connection import WORDING
from worker.database.translation import DatabaseMessage, translate_error
from worker.errors import DatabaseError, SchemaError, SettingsError


def error(sqlstate: str, context: str | None, hint: str | None = None) -> Exception:
    return translate_error(DatabaseMessage(sqlstate, "why", hint, context), WORDING)


@pytest.mark.parametrize(
    "context",
    [
        "PL/pgSQL function public.watch_embeddings(regclass,text) line 5 at RAISE",
        "PL/pgSQL function embedding.check_table(text) line 6 at RAISE\nSQL statement ...",
        "PL/pgSQL-Funktion public.search_embeddings(text,text) Zeile 9 bei RAISE",
        "fonction PL/pgSQL embedding.plan_watch(regclass,text), ligne 3, \u00e0 RAISE",
        "PL/pgSQL\u95a2\u6570embedding.check_table(text)\u306e6\u884c\u76ee - RAISE",
    ],
)
def test_what_the_sql_api_raises_is_a_refusal_whatever_its_state_and_language(context: str) -> None:
    found = error("42501", context, "Run this.")
    assert isinstance(found, SettingsError)
    assert (found.cause, found.hint) == ("why", "Run this.")


@pytest.mark.parametrize(
    "context",
    [
        "",  # the call itself
        "PL/pgSQL function public.watch_embeddings(regclass,text) line 5 at EXECUTE",
        "PL/pgSQL function app.check_text() line 3 at RAISE",
        "PL/pgSQL function my_embedding.check_text(embedding.claimed_job) line 3 at RAISE",
        'PL/pgSQL function "my embedding.x"() line 3 at RAISE',
        'SQL function "requeue_embeddings" statement 1',
    ],
)
def test_any_other_error_is_one_of_the_database_and_has_its_sqlstate(context: str) -> None:
    found = error("22023", context)
    assert type(found) is DatabaseError
    assert found.exit_code == 1
    assert "SQLSTATE 22023" in found.cause


def test_a_missing_right_has_a_hint() -> None:
    found = error("42501", "")
    assert isinstance(found, DatabaseError)
    assert "grant the right" in str(found.hint)


def test_a_call_that_finds_no_function_lacks_the_schema() -> None:
    assert isinstance(error("42883", ""), SchemaError)
    inside = "PL/pgSQL function public.claim_embeddings(text) line 5 at EXECUTE"
    assert type(error("42883", inside)) is DatabaseError


@pytest.mark.parametrize("sqlstate", ["42703", "42P01"])  # a column, a table
def test_a_statement_of_the_api_that_finds_no_column_or_table_lacks_the_schema(
    sqlstate: str,
) -> None:
    inside = "PL/pgSQL function public.claim_embeddings(text) line 5 at EXECUTE"
    for context, of_the_api, kind in (
        ("", True, SchemaError),
        (None, True, SchemaError),
        (inside, True, DatabaseError),
        ("", False, DatabaseError),  # it may name a table of the user
    ):
        said = DatabaseMessage(sqlstate, "why", None, context, of_the_api=of_the_api)
        assert type(translate_error(said, WORDING)) is kind
