"""The environment becomes settings, or one message with all that is wrong."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.settings import (
    VENDORS,
    Settings,
    foreign_parameters,
    unknown_variables,
    without_password,
)

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
            "AZURE_OPENAI_ENDPOINT": "https://given.openai.azure.com",
            "AZURE_OPENAI_API_KEY": "azure-given",
            "OLLAMA_HOST": "gpu-box",
            "ENABLE_LLM_ENHANCEMENT": "true",
            "OLLAMA_LLM_BASE_URL": "http://chat-box:8080/v1",
            "OLLAMA_LLM_MODEL": "gemma3:12b",
            "ENHANCEMENT_CACHE_MB": "0",
            "NEXT_PUBLIC_API_BASE_URL": "https://app.example.com",
            "EMBEDDING_API_TOKEN": "token-given",
            "EMBEDDING_EXTRA_BODY": '{"cohere": {"priority": 5}}',
            "VOYAGE_API_KEY": "voyage-given",
            "VOYAGE_BASE_URL": "https://voyage.example.com/v1",
            "EMBEDDING_RPM": "3000",
            "EMBEDDING_TPM": "1000000",
            "EMBEDDING_MAX_CONCURRENCY": "9",
            "MAX_EMBEDDING_WORKERS": "4",
            "EMBEDDING_CACHE_MB": "64",
            "EMBEDDING_BATCH_SIZE": "7",
            "EMBEDDING_DELAY_MS": "0",
            "EMBEDDING_TIMEOUT_SECONDS": "1.5",
            "EMBEDDING_LEASE_SECONDS": "31.6",
            "WORKER_DATA_DIR": "/some where/else",
            "SUPABASE_URL": "https://project.supabase.co/rest/v1/",
            "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_given",
        }
    ) == Settings(
        database_url="postgresql://user:password@host/database",
        embedding_model="openai:text-embedding-3-small",
        openai_api_key="sk-given",
        openai_base_url="http://127.0.0.1:8080/v1",
        azure_openai_endpoint="https://given.openai.azure.com",
        azure_openai_api_key="azure-given",
        ollama_host="http://gpu-box:11434",
        enable_llm_enhancement=True,
        ollama_llm_base_url="http://chat-box:8080",
        ollama_llm_model="gemma3:12b",
        enhancement_cache_mb=0,
        next_public_api_base_url="https://app.example.com",
        embedding_api_token="token-given",
        embedding_extra_body={"cohere": {"priority": 5}},
        voyage_api_key="voyage-given",
        voyage_base_url="https://voyage.example.com/v1",
        embedding_rpm=3000,
        embedding_tpm=1_000_000,
        embedding_max_concurrency=9,
        embedding_cache_mb=64,
        embedding_batch_size=7,
        embedding_delay_ms=0,
        embedding_timeout_seconds=1.5,
        embedding_lease_seconds=31.6,
        worker_data_dir=Path("/some where/else"),
        supabase_url="https://project.supabase.co",
        supabase_service_role_key="sb_secret_given",
    )


def test_there_is_a_variable_for_every_setting() -> None:
    names = {setting.name.upper() for setting in fields(Settings)}
    others = {"NEXT_PUBLIC_SUPABASE_URL", "MAX_EMBEDDING_WORKERS", "CO_API_KEY"}
    assert Settings.variables() == names | others | {"OLLAMA_EMBEDDING_HOST"}


def test_the_alias_of_a_variable_is_read_where_the_variable_is_not_set() -> None:
    assert Settings.from_mapping({"MAX_EMBEDDING_WORKERS": "4"}).embedding_max_concurrency == 4
    [problem] = problems(MAX_EMBEDDING_WORKERS="0")
    assert problem == "EMBEDDING_MAX_CONCURRENCY must be a whole number from 1 to 256: `0`"
    assert Settings.from_mapping({"CO_API_KEY": "given"}).cohere_api_key == "given"
    [problem] = problems(NEXT_PUBLIC_SUPABASE_URL="https://supabase.com/dashboard/project/x")
    assert problem.startswith("SUPABASE_URL must be the address of the project")


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


@pytest.mark.parametrize("given", ["http:https://me:hunter2@host", "http:/path?key=hunter2"])
def test_a_model_with_a_secret_in_its_address_is_not_repeated(given: str) -> None:
    assert problems(EMBEDDING_MODEL=given) == [
        "EMBEDDING_MODEL may hold no user, password, query or fragment"
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


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8080", "http://gpu-box:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::1]", "http://[::1]:11434"),
        ("http://gpu-box", "http://gpu-box"),
        ("http://gpu-box:8080/", "http://gpu-box:8080"),
        ("https://gpu-box.example.com/ollama/", "https://gpu-box.example.com/ollama"),
    ],
)
def test_the_host_of_ollama_is_read_as_ollama_reads_it(given: str, read: str) -> None:
    assert Settings.from_mapping({"OLLAMA_HOST": given}).ollama_host == read


@pytest.mark.parametrize("given", ["ftp://gpu-box", "gpu-box:port", "http://", "[::"])
def test_what_is_no_host_of_ollama_is_not_repeated(given: str) -> None:
    assert problems(OLLAMA_HOST=given) == [
        "OLLAMA_HOST must be an address like http://127.0.0.1:11434"
    ]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://gpu-box:11434", "http://gpu-box:11434"),
        ("http://gpu-box:11434/v1", "http://gpu-box:11434"),
        ("http://gpu-box:11434/v1/", "http://gpu-box:11434"),
        ("http://gpu-box:11434/api", "http://gpu-box:11434"),
        ("https://example.com/ollama/api/", "https://example.com/ollama"),
        ("https://example.com/v1/ollama", "https://example.com/v1/ollama"),
        ("http://api", "http://api"),
        ("https://example.com/my-api", "https://example.com/my-api"),
        ("gpu-box/v1", "http://gpu-box:11434"),
        ("0.0.0.0:8080/api", "http://127.0.0.1:8080"),
    ],
)
def test_the_address_for_chat_models_is_one_of_ollama_without_the_path_of_its_apis(
    given: str, read: str
) -> None:
    assert Settings.from_mapping({"OLLAMA_LLM_BASE_URL": given}).ollama_llm_base_url == read


@pytest.mark.parametrize("given", ["ftp://gpu-box", "gpu-box:port/v1", "http://", "[::"])
def test_what_is_no_address_for_chat_models_is_not_repeated(given: str) -> None:
    assert problems(OLLAMA_LLM_BASE_URL=given) == [
        "OLLAMA_LLM_BASE_URL must be an address like http://127.0.0.1:11434"
    ]


@pytest.mark.parametrize(
    "given", ["gemma3", "gemma3:12b", "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M", "ollama:gemma3:12b"]
)
def test_a_chat_model_is_named_as_ollama_names_it(given: str) -> None:
    read = Settings.from_mapping({"OLLAMA_LLM_MODEL": given}).ollama_llm_model
    assert read == given.removeprefix("ollama:")


@pytest.mark.parametrize("given", ["two words", "a#b", "ollama:", "a\x00b", "gémma"])
def test_what_is_no_name_of_a_chat_model_is_repeated_with_an_example(given: str) -> None:
    assert problems(OLLAMA_LLM_MODEL=given) == [
        f"OLLAMA_LLM_MODEL must be the name of a model of Ollama, like gemma3:12b: `{given}`"
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


@pytest.mark.parametrize("model", ["openai:small", "azure:small", "http:/api/embeddings/generate"])
def test_a_command_that_asks_no_model_needs_nothing_for_it(model: str) -> None:
    settings = Settings.from_mapping({"EMBEDDING_MODEL": model}, asks_model=False)
    assert settings.embedding_model == model
    with pytest.raises(SettingsError):
        Settings.from_mapping({"EMBEDDING_MODEL": "small"}, asks_model=False)


def test_azure_needs_an_endpoint_and_a_key() -> None:
    azure = {"EMBEDDING_MODEL": "azure:text-embedding-3-small"}
    assert [problem.split()[0] for problem in problems(**azure)] == [
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_API_KEY",
    ]
    azure |= {"AZURE_OPENAI_ENDPOINT": "https://given.openai.azure.com"}
    Settings.from_mapping(azure | {"AZURE_OPENAI_API_KEY": "azure-given"})


def test_an_endpoint_of_your_own_without_a_host_needs_one() -> None:
    relative = {"EMBEDDING_MODEL": "http:/api/embeddings/generate"}
    [problem] = problems(**relative)
    assert problem.startswith("NEXT_PUBLIC_API_BASE_URL is not set, but EMBEDDING_MODEL is http:/")
    Settings.from_mapping(relative | {"NEXT_PUBLIC_API_BASE_URL": "https://app.example.com"})
    Settings.from_mapping({"EMBEDDING_MODEL": "http:https://app.example.com/api"})


def test_a_provider_and_a_model_of_ollama_name_the_model() -> None:
    ollama = {"EMBEDDING_PROVIDER": "Ollama", "OLLAMA_EMBEDDING_MODEL": "nomic-embed-text"}
    settings = Settings.from_mapping(ollama | {"OLLAMA_EMBEDDING_HOST": "gpu-box"})
    assert settings.embedding_model == "ollama:nomic-embed-text"
    assert settings.ollama_host == "http://gpu-box:11434"
    named = Settings.from_mapping(ollama | {"EMBEDDING_MODEL": "ollama:bge-m3"})
    assert named.embedding_model == "ollama:bge-m3"
    assert Settings.from_mapping({"EMBEDDING_PROVIDER": "local"}).embedding_provider == "local"
    other = Settings.from_mapping({"OLLAMA_EMBEDDING_MODEL": "nomic-embed-text"})
    assert other.embedding_model == "local:wordllama-256"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"EMBEDDING_PROVIDER": "ollama"},
            "OLLAMA_EMBEDDING_MODEL is not set, but EMBEDDING_PROVIDER is ollama",
        ),
        (
            {"EMBEDDING_PROVIDER": "openai", "OLLAMA_EMBEDDING_MODEL": "nomic-embed-text"},
            "EMBEDDING_MODEL is not set, but EMBEDDING_PROVIDER is openai",
        ),
        (
            {"EMBEDDING_PROVIDER": "openai", "EMBEDDING_MODEL": "ollama:bge-m3"},
            "EMBEDDING_PROVIDER is openai, but EMBEDDING_MODEL is ollama:bge-m3",
        ),
        (
            {"EMBEDDING_PROVIDER": "ollama", "OLLAMA_EMBEDDING_MODEL": "two words"},
            "OLLAMA_EMBEDDING_MODEL must be the name of a model of Ollama, like gemma3:12b:"
            " `two words`",
        ),
        (
            {"EMBEDDING_PROVIDER": "ollama", "EMBEDDING_MODEL": "bge-m3"},
            "EMBEDDING_MODEL must be provider:model, like openai:text-embedding-3-small: `bge-m3`",
        ),
        (
            {"EMBEDDING_PROVIDER": "open ai"},
            "EMBEDDING_PROVIDER must be the name of a provider, like ollama: `open ai`",
        ),
    ],
)
def test_a_provider_without_its_model_is_a_problem(given: dict[str, str], problem: str) -> None:
    assert problems(**given) == [problem]


def test_a_provider_needs_no_model_where_no_model_is_asked() -> None:
    Settings.from_mapping({"EMBEDDING_PROVIDER": "ollama"}, asks_model=False)


def test_enhancement_by_default_needs_a_chat_model() -> None:
    [problem] = problems(ENABLE_LLM_ENHANCEMENT="true")
    assert problem == "OLLAMA_LLM_MODEL is not set, but ENABLE_LLM_ENHANCEMENT is true"
    Settings.from_mapping({"ENABLE_LLM_ENHANCEMENT": "true", "OLLAMA_LLM_MODEL": "gemma3"})
    Settings.from_mapping({"ENABLE_LLM_ENHANCEMENT": "false"})
    [problem] = problems(ENABLE_LLM_ENHANCEMENT="true", OLLAMA_LLM_MODEL="two words")
    assert problem.startswith("OLLAMA_LLM_MODEL must be the name of a model")


def test_a_lease_must_leave_room_for_three_heartbeats() -> None:
    [problem] = problems(EMBEDDING_LEASE_SECONDS="1.9")
    assert problem == "EMBEDDING_LEASE_SECONDS must be at least 2 seconds: `1.9`"
    assert Settings.from_mapping({"EMBEDDING_LEASE_SECONDS": "2"}).embedding_lease_seconds == 2


@pytest.mark.parametrize("variable", ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"])
def test_a_supabase_project_needs_a_key_or_a_connection_string(variable: str) -> None:
    url = "https://project.supabase.co"
    [problem] = problems(**{variable: url})
    assert problem == (
        "SUPABASE_SERVICE_ROLE_KEY is not set, but SUPABASE_URL is, and DATABASE_URL is not"
    )
    key = {"SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x"}
    assert Settings.from_mapping({variable: url} | key).uses_data_api
    database = {"DATABASE_URL": "postgresql://host/database"}
    assert not Settings.from_mapping({variable: url} | database).uses_data_api
    assert not Settings.from_mapping({variable: url} | key | database).uses_data_api


def token(payload: bytes) -> str:
    """A JSON web token, as keys were until the secret and publishable ones."""
    return f"header.{urlsafe_b64encode(payload).decode().rstrip('=')}.signature"


@pytest.mark.parametrize(
    ("key", "is_for_browsers"),
    [
        ("sb_publishable_x", True),
        ("sb_secret_x", False),
        (token(b'{"role": "anon"}'), True),
        (token(b'{"role": "service_role"}'), False),
        ("x.no base64.x", False),
        ("x.W10.x", False),  # a token that holds a list
    ],
)
def test_the_key_for_browsers_is_told_from_the_secret_one(key: str, is_for_browsers: bool) -> None:
    given = {"SUPABASE_URL": "https://project.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": key}
    if is_for_browsers:
        [problem] = problems(**given)
        assert problem.startswith("SUPABASE_SERVICE_ROLE_KEY is the key for browsers")
        assert key not in problem
    else:
        assert Settings.from_mapping(given).supabase_service_role_key == key


def test_a_blank_connection_string_is_none_for_a_supabase_project_as_well() -> None:
    problems(SUPABASE_URL="https://project.supabase.co", DATABASE_URL=" ")


def test_contradictions_are_told_together() -> None:
    found = problems(
        EMBEDDING_MODEL="openai:small",
        SUPABASE_URL="https://project.supabase.co",
    )
    assert [problem.split()[0] for problem in found] == [
        "OPENAI_API_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
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
        "SUPABASE_SERVICE_ROLE_KEY",
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


# The vendors


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_needs_its_key_or_an_address(vendor: str) -> None:
    model = f"{vendor}:a-model"
    [problem] = problems(EMBEDDING_MODEL=model)
    assert problem == f"{vendor.upper()}_API_KEY is not set, but EMBEDDING_MODEL is {model}"
    for name, given in (("API_KEY", "given"), ("BASE_URL", "http://127.0.0.1:8000")):
        settings = Settings.from_mapping(
            {"EMBEDDING_MODEL": model, f"{vendor.upper()}_{name}": given}
        )
        assert given in settings.key_and_base_url(vendor)


@pytest.mark.parametrize(
    "given",
    [
        "[]",
        "{",
        "hunter2",
        '{"voyage": 1}',
        '{"hunter2": {}}',
        '{"ollama": {}}',
        '{"voyage": {"a": NaN}}',
        '{"voyage": {"a": "' + "x" * 10_000 + '"}}',
        '{"voyage": ' + "[" * 9_000,
    ],
)
def test_an_extra_body_is_an_object_of_objects(given: str) -> None:
    [problem] = problems(EMBEDDING_EXTRA_BODY=given)
    assert problem.startswith("EMBEDDING_EXTRA_BODY must be a JSON object with an object for each")
    assert "hunter2" not in problem


# Secrets


def test_urls_and_keys_are_secret() -> None:
    endings = ("_KEY", "_URL", "_TOKEN", "_ENDPOINT", "_HOST", "_COMMAND", "_KEY_ID", "_SECRET")
    named = {name for name in Settings.variables() if name.endswith(endings)}
    named -= {"SUPABASE_URL", "WORKER_METRICS_HOST", "WORKER_WEB_URL", "FILES_HOST"}
    named -= {"NEXT_PUBLIC_SUPABASE_URL", "CO_API_KEY", "OLLAMA_EMBEDDING_HOST"}  # other names
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


# Parameters of other programs in a URL of Postgres

URL = "postgresql://user:secret@host:5432/app"


@pytest.mark.parametrize(
    ("query", "kept", "foreign"),
    [
        ("", "", []),
        ("?pgbouncer=true", "", ["pgbouncer"]),
        ("?pgbouncer=true&connection_limit=1", "", ["pgbouncer", "connection_limit"]),
        ("?sslmode=require&supa=base-pooler.x", "?sslmode=require", ["supa"]),
        ("?schema=public&sslmode=verify-full&pool_timeout=0", "?sslmode=verify-full", None),
        ("?schema=public&schema=other", "", ["schema"]),
        ("?options=-c%20a%3Db&statement-cache-capacity=0", "?options=-c%20a%3Db", None),
        ("?pg%62ouncer=true&application_name=x", "?application_name=x", ["pgbouncer"]),
        ("?sslmode=require&connect_timeout=5", "?sslmode=require&connect_timeout=5", []),
        ("?unknown=1&max=3", "?unknown=1", ["max"]),
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_parameters_of_other_programs_are_left_out_of_the_url(
    scheme: str, query: str, kept: str, foreign: list[str] | None
) -> None:
    url = URL.replace("postgresql", scheme)
    settings = Settings.from_mapping({"DATABASE_URL": url + query})
    assert settings.database_url == url + kept
    if foreign is not None:
        assert foreign_parameters(url + query) == foreign


@pytest.mark.parametrize("password", ["a?schema=b", "a?pgbouncer=true&supa=x", "?", "a?b=c"])
def test_a_question_mark_of_a_password_begins_no_parameters(password: str) -> None:
    url = f"postgresql://user:{password}@host/app?sslmode=require"
    assert foreign_parameters(url) == []
    assert Settings.from_mapping({"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("url", "without", "password"),
    [
        (URL, "postgresql://user@host:5432/app", "secret"),
        ("postgres://user:a%2Fb%40:c@/app?host=/tmp", "postgres://user@/app?host=/tmp", "a/b@:c"),
        ("postgresql://user@host/app", "postgresql://user@host/app", None),
        ("postgresql://host:5432/app", "postgresql://host:5432/app", None),
        ("postgresql://user:p@a:1,b:2/app", "postgresql://user@a:1,b:2/app", "p"),
        (
            "postgresql://postgres:@/postgres?host=/run/x",
            "postgresql://postgres@/postgres?host=/run/x",
            "",
        ),
    ],
)
def test_a_password_is_taken_out_of_a_url(url: str, without: str, password: str | None) -> None:
    assert without_password(url) == (without, password)


# Unknown variables


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("EMBEDDING_BATCHSIZE", "EMBEDDING_BATCH_SIZE"),
        ("EMBEDDING_MODLE", "EMBEDDING_MODEL"),
        ("WORKER_METRIC_PORT", "WORKER_METRICS_PORT"),
        ("NOTIFY_WEBHOOK", "NOTIFY_WEBHOOK_URL"),
        ("WORKER_QQQQQQQQQQQQQQQQQQQQQQQQ", None),
    ],
)
def test_an_unknown_variable_is_reported_with_the_nearest_name(
    name: str, nearest: str | None
) -> None:
    assert unknown_variables({name: "9400", "EMBEDDING_RPM": "1"}) == {name: nearest}


def test_variables_of_others_are_not_reported() -> None:
    assert not unknown_variables(dict.fromkeys(Settings.variables(), "x"))
    assert not unknown_variables({"HOME": "/", "WORKERS": "4", "embedding_batch": "1"})
    assert not unknown_variables({"NOTIFY_SOCKET": "/run/systemd/notify"})


@pytest.mark.parametrize(
    "service", ["WORKER", "EMBEDDING", "NOTIFY", "EMBEDDING_WORKER", "WORKER_2"]
)
def test_what_kubernetes_sets_for_a_service_is_not_reported(service: str) -> None:
    set_by_kubernetes = {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT_HTTP": "8080",
        f"{service}_PORT": "tcp://10.0.0.11:8080",
        f"{service}_PORT_8080_TCP": "tcp://10.0.0.11:8080",
        f"{service}_PORT_8080_TCP_PROTO": "tcp",
        f"{service}_PORT_8080_TCP_PORT": "8080",
        f"{service}_PORT_8080_TCP_ADDR": "10.0.0.11",
    }
    assert not unknown_variables(set_by_kubernetes)
