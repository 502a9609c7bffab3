"""The environment becomes settings, or one message with all that is wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.settings import Settings

SECRETS = [setting.name for setting in fields(Settings) if not setting.repr]


def problems(**values: str) -> list[str]:
    """The problems reported for these values."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(values)
    assert caught.value.exit_code == 2
    assert caught.value.hint == (
        "Correct the environment or .env; .env.example describes every variable."
    )
    return caught.value.cause.split("; ")


def test_nothing_at_all_gives_the_defaults() -> None:
    assert Settings.from_mapping({}) == Settings()


def test_every_variable_is_read() -> None:
    assert Settings.from_mapping(
        {
            "DATABASE_URL": "postgresql://user:password@host/database",
            "EMBEDDING_MODEL": "openai:text-embedding-3-small",
            "OPENAI_API_KEY": "sk-given",
            "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1",
            "EMBEDDING_BATCH_SIZE": "7",
            "EMBEDDING_DELAY_MS": "0",
            "EMBEDDING_TIMEOUT_SECONDS": "1.5",
            "EMBEDDING_LEASE_SECONDS": "31.6",
            "WORKER_DATA_DIR": "/some where/else",
            "SUPABASE_URL": "https://project.supabase.co",
        }
    ) == Settings(
        database_url="postgresql://user:password@host/database",
        embedding_model="openai:text-embedding-3-small",
        openai_api_key="sk-given",
        openai_base_url="http://127.0.0.1:8080/v1",
        embedding_batch_size=7,
        embedding_delay_ms=0,
        embedding_timeout_seconds=1.5,
        embedding_lease_seconds=31.6,
        worker_data_dir=Path("/some where/else"),
    )


def test_there_is_a_variable_for_every_setting() -> None:
    names = {setting.name.upper() for setting in fields(Settings)}
    assert Settings.variables() == names | {"SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"}


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_value_is_none(blank: str) -> None:
    assert Settings.from_mapping(dict.fromkeys(Settings.variables(), blank)) == Settings()


def test_space_around_a_value_is_left_away() -> None:
    assert Settings.from_mapping({"EMBEDDING_BATCH_SIZE": " 7\n"}).embedding_batch_size == 7


# What is malformed


@pytest.mark.parametrize("given", ["lots", "1.5", "-1", "+1", "1e3", "1_000", "٣", "9999999999"])
@pytest.mark.parametrize(
    ("variable", "limits"),
    [("EMBEDDING_BATCH_SIZE", "1 to 10000"), ("EMBEDDING_DELAY_MS", "0 to 86400000")],
)
def test_what_is_no_whole_number_is_repeated_with_what_is_wanted(
    variable: str, limits: str, given: str
) -> None:
    wanted = f"{variable} must be a whole number from {limits}: `{given}`"
    assert problems(**{variable: given}) == [wanted]


def test_a_number_below_the_least_is_a_problem() -> None:
    assert problems(EMBEDDING_BATCH_SIZE="0") == [
        "EMBEDDING_BATCH_SIZE must be a whole number from 1 to 10000: `0`"
    ]


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf", "1e999", "60s", "1:00"])
@pytest.mark.parametrize("variable", ["EMBEDDING_TIMEOUT_SECONDS", "EMBEDDING_LEASE_SECONDS"])
def test_what_is_no_number_of_seconds_is_repeated(variable: str, given: str) -> None:
    assert problems(**{variable: given}) == [
        f"{variable} must be a number of seconds above zero: `{given}`"
    ]


@pytest.mark.parametrize("given", ["86400.1", "1e13", "1e300"])
@pytest.mark.parametrize("variable", ["EMBEDDING_TIMEOUT_SECONDS", "EMBEDDING_LEASE_SECONDS"])
def test_more_seconds_than_a_day_has_are_a_problem(variable: str, given: str) -> None:
    assert problems(**{variable: given}) == [
        f"{variable} must be at most a day, 86400 seconds: `{given}`"
    ]


@pytest.mark.parametrize(
    "given", ["gpt", "openai", "openai:", ":small", "Open AI:small", "openai:two words", "a/b:c"]
)
def test_what_is_no_model_is_repeated_with_an_example(given: str) -> None:
    assert problems(EMBEDDING_MODEL=given) == [
        "EMBEDDING_MODEL must be provider:model, like openai:text-embedding-3-small:"
        f" `{given.strip()}`"
    ]


@pytest.mark.parametrize(
    "given", ["host=localhost", "localhost:5432", "mysql://u:p@h/d", "postgresql:/u:p@h/d"]
)
def test_a_database_url_of_another_kind_is_not_repeated(given: str) -> None:
    assert problems(DATABASE_URL=given) == ["DATABASE_URL must begin with postgresql://"]


@pytest.mark.parametrize(
    "given",
    [
        "localhost:11434",
        "ftp://host/v1",
        "http:///v1",
        "https://",
        "http://host:port/",
        "http://[::",
    ],
)
def test_a_base_url_of_another_kind_is_not_repeated(given: str) -> None:
    assert problems(OPENAI_BASE_URL=given) == [
        "OPENAI_BASE_URL must be a URL like https://host:port/v1"
    ]


def test_all_that_is_malformed_is_told_at_once() -> None:
    malformed = {
        "DATABASE_URL": "host=localhost",
        "EMBEDDING_MODEL": "gpt",
        "OPENAI_BASE_URL": "localhost",
        "EMBEDDING_BATCH_SIZE": "0",
        "EMBEDDING_DELAY_MS": "-1",
        "EMBEDDING_TIMEOUT_SECONDS": "soon",
        "EMBEDDING_LEASE_SECONDS": "late",
    }
    assert [problem.split()[0] for problem in problems(**malformed)] == list(malformed)


# What contradicts itself


def test_openai_needs_a_key_or_a_server_that_may_do_without() -> None:
    model = "openai:text-embedding-3-small"
    assert problems(EMBEDDING_MODEL=model) == [
        f"OPENAI_API_KEY is not set, but EMBEDDING_MODEL is {model}"
    ]
    Settings.from_mapping({"EMBEDDING_MODEL": model, "OPENAI_API_KEY": "sk-given"})
    Settings.from_mapping({"EMBEDDING_MODEL": model, "OPENAI_BASE_URL": "http://localhost/v1"})


def test_a_lease_must_leave_room_for_three_heartbeats() -> None:
    [problem] = problems(EMBEDDING_LEASE_SECONDS="1.9")
    assert problem == "EMBEDDING_LEASE_SECONDS must be at least 2 seconds: `1.9`"
    assert Settings.from_mapping({"EMBEDDING_LEASE_SECONDS": "2"}).embedding_lease_seconds == 2


@pytest.mark.parametrize("variable", ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"])
def test_a_supabase_project_without_a_connection_string_is_told_what_to_copy(variable: str) -> None:
    [problem] = problems(**{variable: "https://project.supabase.co"})
    assert problem.startswith("DATABASE_URL is not set, and the Data API (SUPABASE_URL) is not")
    Settings.from_mapping(
        {variable: "https://project.supabase.co", "DATABASE_URL": "postgresql://host/database"}
    )


def test_a_blank_connection_string_is_none_for_a_supabase_project_as_well() -> None:
    problems(SUPABASE_URL="https://project.supabase.co", DATABASE_URL=" ")


def test_contradictions_are_told_together() -> None:
    found = problems(
        EMBEDDING_MODEL="openai:small",
        SUPABASE_URL="https://project.supabase.co",
    )
    assert [problem.split()[0] for problem in found] == [
        "OPENAI_API_KEY",
        "DATABASE_URL",
    ]


def test_contradictions_are_told_together_with_what_is_malformed() -> None:
    found = problems(
        EMBEDDING_BATCH_SIZE="lots",
        EMBEDDING_MODEL="openai:small",
        SUPABASE_URL="https://project.supabase.co",
    )
    assert [problem.split()[0] for problem in found] == [
        "EMBEDDING_BATCH_SIZE",
        "OPENAI_API_KEY",
        "DATABASE_URL",
    ]


# The file


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("EMBEDDING_BATCH_SIZE=5\nEMBEDDING_DELAY_MS=50 # a comment\n")
    settings = Settings.load({"EMBEDDING_BATCH_SIZE": "7"}, dotenv)
    assert (settings.embedding_batch_size, settings.embedding_delay_ms) == (7, 50)
    assert settings.embedding_timeout_seconds == Settings().embedding_timeout_seconds


def test_a_blank_variable_of_the_environment_leaves_that_of_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("EMBEDDING_BATCH_SIZE=5\nEMBEDDING_DELAY_MS=\nEMBEDDING_MODEL\n")
    settings = Settings.load({"EMBEDDING_BATCH_SIZE": " "}, dotenv)
    assert settings == Settings(embedding_batch_size=5)


def test_a_missing_file_is_no_problem(tmp_path: Path) -> None:
    assert Settings.load({}, tmp_path / ".env") == Settings()


def test_contradictions_are_found_between_the_environment_and_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("EMBEDDING_MODEL=openai:small\n")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        Settings.load({}, dotenv)
    assert Settings.load({"OPENAI_API_KEY": "sk-given"}, dotenv).openai_api_key == "sk-given"


def test_a_file_that_is_not_utf8_is_an_error_of_settings(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes("# Schlüssel\nEMBEDDING_BATCH_SIZE=5\n".encode("latin-1"))
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, dotenv)
    assert caught.value.cause == f"{dotenv} is not written in UTF-8 (byte 6)"
    assert caught.value.hint == "Save it as UTF-8."


# Secrets


def test_urls_and_keys_are_secret() -> None:
    named = {n for n in Settings.variables() if n.endswith(("_KEY", "_URL")) and "SUPA" not in n}
    assert {name.upper() for name in SECRETS} == named


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "wellformed", ["hunter2-{}", "postgresql://u:hunter2@h/{}", "http://u:hunter2@h/{}", "hunter2"]
)
def test_a_secret_is_in_no_repr_and_no_error(name: str, wellformed: str) -> None:
    secret = wellformed.format("hunter2")
    # Two values that are wrong for certain, so that there is an error, and the secret itself.
    values = {"EMBEDDING_BATCH_SIZE": "lots", "EMBEDDING_DELAY_MS": "-1", name.upper(): secret}
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(values)
    assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.hint}"
    given: dict[str, Any] = {name: secret}
    settings = Settings(**given)
    assert getattr(settings, name) == secret
    assert "hunter2" not in f"{settings!r} {settings}"
