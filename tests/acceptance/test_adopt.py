"""`worker watch --adopt`: what it prints, and how it ends."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from tests.acceptance.conftest import MODEL, WIDTH, fill
from tests.conftest import Database, Worker, value
from tests.openai_server import OpenAIServer, vector_for
from tests.unit.test_documentation import section
from worker.operations.adoption import Adoption

ADOPT = ["watch", "notes", "--source", "body", "--adopt", MODEL]


@pytest.fixture
def filled(db: Database) -> Database:
    """Twenty notes, of which another tool has embedded all but one."""
    db.execute(f"create table notes (id bigint primary key, body text, embedding vector({WIDTH}))")
    fill(db, 20)
    for number in range(1, 20):
        vector = str(vector_for(f"note number {number}", WIDTH).tolist())
        db.execute("update notes set embedding = %s::text::vector where id = %s", [vector, number])
    return db


def test_vectors_are_adopted_and_the_rest_is_embedded(
    filled: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    adopted = worker(*ADOPT, **with_openai)
    assert adopted.returncode == 0
    assert adopted.stderr == (
        f"comparing up to 20 vectors with {MODEL}\n"
        "hint: to embed the pending rows, run `worker process`\n"
    )
    watching, compared, *counts = adopted.stdout.splitlines()
    assert watching == "Watching: notes.embedding <- body"
    assert compared.startswith("Compared: 19 vectors, the lowest cosine is 1.0 (0.999 is needed); ")
    assert counts == ["Adopted: 19", "Pending: 1"]
    openai.requests.clear()
    assert worker("process", **with_openai).returncode == 0
    assert [request.texts for request in openai.requests] == [["note number 20"]]
    assert worker("verify", "notes", **with_openai).returncode == 0


def test_other_vectors_are_refused_with_the_exit_code_of_a_verification(
    filled: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    filled.execute("update notes set body = 'passage: ' || body")
    refused = worker(*ADOPT, **with_openai)
    assert (refused.returncode, refused.stdout) == (1, "")
    _, error, hint = refused.stderr.splitlines()
    assert error.startswith(f"error: 19 of 19 sampled vectors are not those that {MODEL} gives for")
    assert hint.startswith("hint: Likely causes: another model or version; a prompt or a template")
    assert value(filled, "select count(*) from embedding_targets") == 0


def test_the_result_as_json_is_a_contract(
    filled: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    result = json.loads(worker(*ADOPT, "--json", **with_openai).stdout)
    assert result["target"]["table_name"] == "notes"
    assert (result["adoption"]["adopted"], result["adoption"]["pending"]) == (19, 1)
    assert {*result["adoption"], "target"} == {field.name for field in fields(Adoption)}
    for field in [*result, *result["adoption"]]:
        assert f"| `{field}` |" in section("watch"), field
    watched = json.loads(worker("watch", "notes", "--json", **with_openai).stdout)
    assert watched == {"target": result["target"], "adoption": None}


def test_a_migration_watches_for_the_model_and_the_command_adopts_afterwards(
    filled: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    migration = worker(*ADOPT, "--sql", **with_openai)
    assert migration.returncode == 0
    assert f"model => '{MODEL}'::" in migration.stdout
    filled.execute(migration.stdout.encode())
    assert "Adopted: 19\n" in worker(*ADOPT, **with_openai).stdout


@pytest.mark.parametrize(
    "flags",
    [
        ["--create-column"],
        ["--chunks"],
        ["--store", "table"],
        ["--enhance", "openai:gpt-4o-mini"],
        ["--model", "ollama:bge-m3"],
    ],
)
@pytest.mark.usefixtures("filled")
def test_what_cannot_be_adopted_is_said(
    worker: Worker, with_openai: dict[str, str], flags: list[str]
) -> None:
    refused = worker(*ADOPT, *flags, **with_openai)
    assert refused.returncode == 2
    assert f"contradicts {flags[0]}" in refused.stderr
