"""Which commands need a model, and what happens where it cannot be opened."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.conftest import fill, refused, statuses
from tests.app_server import AppServer
from tests.conftest import Database, Worker, rest_in_full, rows

NO_KEYS = [
    {"EMBEDDING_MODEL": "openai:text-embedding-3-small"},
    {"EMBEDDING_MODEL": "azure:text-embedding-3-small"},
    {"EMBEDDING_MODEL": "http:/api/embeddings/generate"},
]
WITHOUT_A_MODEL = [
    *(["status"], ["pause"], ["resume"], ["sleep"], ["wake"], ["migrate"], ["targets"], ["list"]),
    *(["stats"], ["backfill"], ["reprocess", "note", "--yes"], ["requeue", "--failed"]),
    ["unwatch", "notes", "--column", "embedding"],
    ["watch", "notes", "--source", "body", "--column", "embedding"],
]


@pytest.mark.parametrize(
    "command", rest_in_full(WITHOUT_A_MODEL, first=4), ids=lambda command: command[0]
)
@pytest.mark.parametrize("environment", NO_KEYS[:1])
def test_a_command_that_asks_no_model_needs_no_key(
    notes: Database, worker: Worker, command: list[str], environment: dict[str, str]
) -> None:
    fill(notes, 2)
    result = worker(*command, **environment)
    assert result.returncode == 0, result.stderr
    assert "is not set" not in result.stderr


@pytest.mark.parametrize("environment", NO_KEYS[1:])
def test_status_needs_no_key_of_any_provider(
    notes: Database, worker: Worker, environment: dict[str, str]
) -> None:
    assert worker("status", **environment).returncode == 0


@pytest.mark.parametrize("environment", NO_KEYS)
def test_doctor_finds_that_the_key_is_missing(
    notes: Database, worker: Worker, environment: dict[str, str]
) -> None:
    result = worker("doctor", "--json", **environment)
    assert result.returncode == 1, result.stderr
    findings = json.loads(result.stdout)["findings"]
    [finding] = [found for found in findings if found["subject"] == environment["EMBEDDING_MODEL"]]
    assert finding["level"] == "problem"
    assert "not set" in finding["cause"]


@pytest.mark.parametrize("command", [["process"], ["run"], ["search", "words"]])
def test_a_command_that_asks_the_model_reports_all_problems_at_once(
    notes: Database, worker: Worker, command: list[str]
) -> None:
    cause, _ = refused(worker(*command, EMBEDDING_BATCH_SIZE="lots", **NO_KEYS[0]), 2)
    assert cause.startswith("EMBEDDING_BATCH_SIZE must be ")
    assert cause.endswith(
        "; OPENAI_API_KEY is not set, but EMBEDDING_MODEL is openai:text-embedding-3-small"
    )


@pytest.mark.parametrize("command", ["process", "run"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("all_proxy", "socks5://me:hunter2@127.0.0.1:9"),
        ("https_proxy", "http://me:hunter2@host:port"),
    ],
)
def test_with_a_proxy_that_cannot_be_used_nothing_is_claimed(
    notes: Database,
    worker: Worker,
    with_openai: dict[str, str],
    command: str,
    variable: str,
    value: str,
) -> None:
    fill(notes, 3)
    cause, hint = refused(worker(command, **with_openai, **{variable: value}), 2)
    assert variable in cause
    assert "hunter2" not in cause + hint
    assert statuses(notes) == {"pending": 3}


def test_a_proxy_does_not_matter_to_a_server_it_is_not_for(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "fd00::/8,10.0.0.0/8,127.0.0.1"}
    assert worker("process", **with_openai, **proxies).returncode == 0
    assert statuses(notes) == {"completed": 3}


def test_a_model_that_cannot_be_opened_does_not_stop_the_others(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute("create table others (id bigint primary key, body text)")
    notes.execute(
        "select watch_embeddings('others', 'body', 'embedding', dimensions => 8,"
        " model => 'http:http://169.254.169.254/latest/meta-data')"
    )
    notes.execute("insert into others values (1, 'a text')")
    fill(notes, 3)
    result = worker("process", **with_openai)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "NEXT_PUBLIC_API_BASE_URL=http://169.254.169.254" in result.stderr
    assert statuses(notes) == {"completed": 3, "pending": 1}


def test_a_host_that_only_the_database_names_is_not_asked(notes: Database, worker: Worker) -> None:
    with AppServer() as server:
        notes.execute(
            "select watch_embeddings('notes', 'body', 'embedding', model => %s)",
            [f"http:{server.url}"],
        )
        fill(notes, 3)
        named = {"EMBEDDING_API_TOKEN": "hunter2", "NEXT_PUBLIC_API_BASE_URL": "http://127.0.0.1:9"}
        cause, hint = refused(worker("process", **named), 2)
        assert not server.requests
        assert cause == f"http:{server.url} is on a host that the environment does not name"
        assert f"NEXT_PUBLIC_API_BASE_URL={server.root}" in hint
        assert rows(notes, "select distinct status, attempts from embedding_queue") == [
            ("pending", 0)
        ]
