"""`worker doctor`, on databases and models with something wrong, and on those without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.conftest import MODEL, Completed
from tests.conftest import IN_CI, REPOSITORY, Database, Server, Worker, run_worker
from tests.http_server import answers
from tests.integration.tables import create_role
from tests.openai_server import OpenAIServer
from tests.supabase_project import NO_SUPABASE, Project, supabase_is_here
from worker.database.migrations import SCHEMA_VERSION
from worker.doctor.connection import inspect_clock
from worker.queue.postgres import PostgresQueue

Doctor = Callable[..., dict[str, Any]]


def findings(result: Completed) -> dict[str, Any]:
    """By the name of its check, each finding of a run; and whether it calls it healthy."""
    assert "Traceback" not in result.stderr, result.stderr
    told = json.loads(result.stdout)
    assert result.returncode == (0 if told["healthy"] else 1)
    assert told["healthy"] == all(one["level"] != "problem" for one in told["findings"])
    return {one["check"]: one for one in told["findings"]}


@pytest.fixture
def doctor(worker: Worker, with_openai: dict[str, str]) -> Doctor:
    def doctor(**environment: str) -> dict[str, Any]:
        return findings(worker("doctor", "--json", **with_openai | environment))

    return doctor


@pytest.mark.usefixtures("notes")
def test_of_what_is_fine_it_says_so(worker: Worker, with_openai: dict[str, str]) -> None:
    result = worker("doctor", **with_openai)
    assert (result.returncode, result.stderr) == (0, "")
    said = result.stdout.splitlines()
    assert f"ok: {MODEL}: it answers, with 8 dimensions" in said
    assert said[-1] == "nothing is wrong"
    assert not [line for line in said if line.startswith(("problem", "warning"))]


def test_cause_and_cure_have_a_line_each(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute("alter table notes disable trigger all")
    result = worker("doctor", **with_openai)
    assert result.returncode == 1
    said = result.stdout.splitlines()
    [place] = [number for number, line in enumerate(said) if line.startswith("problem: notes")]
    assert said[place + 1].startswith("  hint: ")
    assert said[-1] == "problems: 1"


# The database


def test_a_database_without_the_schema_is_told(empty_database_url: str, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": empty_database_url}
    found = findings(run_worker("doctor", "--json", cwd=tmp_path, environment=environment))
    assert found["schema"]["level"] == "problem"
    assert "worker migrate" in found["schema"]["hint"]
    assert found["model"]["level"] == "ok"  # it looked on


@pytest.mark.parametrize(
    ("newer", "word", "cure"), [(-1, "older", "worker migrate"), (1, "newer", "Upgrade")]
)
def test_a_schema_that_is_one_version_apart_is_noted(
    doctor: Doctor, db: Database, newer: int, word: str, cure: str
) -> None:
    db.execute(
        "create or replace function public.embedding_schema_version() returns integer"
        f" language sql as 'select {SCHEMA_VERSION + newer}'".encode()
    )
    found = doctor()["schema"]
    assert (found["level"], f"one version {word}" in found["cause"]) == ("note", True)
    assert cure in found["hint"]


def test_tables_that_were_restored_without_their_functions(
    worker: Worker, doctor: Doctor, db: Database
) -> None:
    db.execute("drop function embedding_schema_version")
    assert "but not its functions" in doctor()["schema"]["cause"]
    result = worker("status")
    assert result.returncode == 3
    assert "hint: " in result.stderr


def test_after_a_restore_in_part_the_page_about_uninstalling_lets_one_begin_again(
    worker: Worker, notes: Database
) -> None:
    page = (REPOSITORY / "docs" / "uninstall.md").read_text(encoding="utf-8")
    [drop] = [
        block for block in re.findall(r"```sql\n(.*?)```", page, re.S) if "drop table" in block
    ]
    notes.execute("drop function embedding_schema_version")
    notes.execute(sql.SQL(drop))
    notes.execute("insert into notes values (1, 'no trigger is left')")
    assert worker("migrate").returncode == 0
    assert worker("status").returncode == 0


def test_a_database_out_of_reach_is_told(doctor: Doctor) -> None:
    found = doctor(DATABASE_URL="postgresql://127.0.0.1:9/postgres")
    assert found["connection"]["level"] == "problem"


def as_role(url: str, role: str) -> str:
    parts = {**conninfo_to_dict(url), "user": role}
    return f"postgresql://{role}@/{parts['dbname']}?host={parts['host']}"


@pytest.fixture
def login(db: Database, server: Server) -> Iterator[Callable[[LiteralString], None]]:
    """Makes roles that may log in, and drops them at the end."""
    made: list[str] = []

    def login(role: LiteralString) -> None:
        create_role(db, role)
        db.execute(f"alter role {role} login".encode())
        made.append(role)

    yield login
    for role in made:
        db.execute(f"drop owned by {role}".encode())
        with suppress(psycopg.errors.DependentObjectsStillExist):  # a template has this role too
            db.execute(f"drop role {role}".encode())


@pytest.mark.parametrize(
    ("role", "check"), [("stranger", "missing_grants"), ("anon", "wrong_role")]
)
def test_a_role_that_may_not_work_is_told(
    doctor: Doctor,
    login: Callable[[LiteralString], None],
    database_url: str,
    role: LiteralString,
    check: str,
) -> None:
    login(role)
    found = doctor(DATABASE_URL=as_role(database_url, role))
    assert found[check]["level"] == "problem"
    assert found[check]["subject"] == role


def test_a_role_with_the_grants_may(
    db: Database, doctor: Doctor, login: Callable[[LiteralString], None], database_url: str
) -> None:
    login("helper")
    db.execute("grant embedding_worker to helper")
    found = doctor(DATABASE_URL=as_role(database_url, "helper"))
    assert not {"missing_grants", "wrong_role", "access"} & set(found)
    assert found["schema"]["level"] == "ok"


def test_a_server_that_wants_encryption_is_told(
    doctor: Doctor, login: Callable[[LiteralString], None], server: Server, database_url: str
) -> None:
    login("in_the_clear")
    rules = Path(str(conninfo_to_dict(server.url)["host"])) / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(server.url, autocommit=True) as connection:
        try:
            rules.write_text("local all in_the_clear reject\n" + before)
            connection.execute("select pg_reload_conf()")
            while (
                connection.execute(
                    "select from pg_hba_file_rules where 'in_the_clear' = any (user_name)"
                ).fetchone()
                is None
            ):
                pass
            found = doctor(DATABASE_URL=as_role(database_url, "in_the_clear"))
        finally:
            rules.write_text(before)
            connection.execute("select pg_reload_conf()")
    assert found["ssl_required"]["level"] == "problem"
    assert "sslmode=require" in found["ssl_required"]["hint"]


def test_a_vector_that_is_not_on_the_search_path_is_worth_saying(
    db: Database, doctor: Doctor, database_url: str
) -> None:
    db.execute("create schema elsewhere")
    db.execute("alter extension vector set schema elsewhere")
    assert doctor()["search_path"]["level"] == "note"


def test_clocks_that_are_apart_are_told(database_url: str) -> None:
    with PostgresQueue(database_url, "tests") as queue:
        assert list(inspect_clock(queue)) == []
        for apart in (timedelta(seconds=-90), timedelta(seconds=90)):
            [finding] = inspect_clock(queue, lambda: datetime.now(UTC) + apart)  # noqa: B023
            assert (finding.level, finding.check) == ("warning", "clock_skew")
            assert " 90 s apart" in finding.cause


# The models


@pytest.mark.usefixtures("notes")
def test_a_key_that_works_is_told_from_one_that_does_not(
    doctor: Doctor, openai: OpenAIServer
) -> None:
    assert doctor()["model"]["subject"] == MODEL
    found = doctor(OPENAI_API_KEY="sk-hunter2")
    assert found["model_refused"]["level"] == "problem"
    assert "hunter2" not in json.dumps(found)


def test_a_model_whose_key_is_missing_is_told(notes: Database, doctor: Doctor) -> None:
    notes.execute("update embedding_targets set model = 'azure:mine'")
    assert doctor()["model_setting"]["level"] == "problem"


@pytest.mark.usefixtures("notes")
def test_a_provider_that_is_out_is_a_warning(doctor: Doctor, openai: OpenAIServer) -> None:
    openai.faults.append(answers(503, {"error": {"message": "overloaded"}}))
    found = doctor()
    assert found["model_unreachable"]["level"] == "warning"


def test_a_column_of_another_width_than_its_model_is_told(notes: Database, doctor: Doctor) -> None:
    notes.execute("update embedding_targets set model = 'local:wordllama-256'")
    found = doctor()
    assert found["model_width"]["level"] == "problem"
    assert "256" in found["model_width"]["cause"]


def test_a_column_of_another_model_than_the_default_is_named(
    notes: Database, doctor: Doctor
) -> None:
    notes.execute("update embedding_targets set model = 'openai:other', model_is_default = true")
    found = doctor()
    assert found["other_model"]["subject"] == "notes.embedding"
    assert "openai:other" in found["other_model"]["cause"]
    assert found["other_model"]["level"] == "problem"


def test_a_column_that_holds_vectors_of_two_models_is_named(
    notes: Database, doctor: Doctor, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute("insert into notes values (1, 'one'), (2, 'two')")
    worker("process", **with_openai)
    notes.execute("update embedding_queue set model = 'openai:other' where record_id = '1'")
    found = doctor()
    assert found["several_models"]["subject"] == "notes.embedding"
    assert f"openai:other (1), {MODEL} (1)" in found["several_models"]["cause"]
    assert "worker recheck" in found["several_models"]["hint"]


def test_a_target_that_is_switched_off_asks_no_model(
    notes: Database, doctor: Doctor, openai: OpenAIServer
) -> None:
    notes.execute("update embedding_targets set enabled = false, model = 'azure:mine'")
    assert "model_setting" not in doctor()


# Over the Data API


@pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)
def test_a_project_is_looked_at_over_the_data_api_as_well(
    project: Project, owner: Database, tmp_path: Path
) -> None:
    owner.execute("create table notes (id bigint primary key, body text)")
    owner.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")
    environment = {"SUPABASE_URL": project.url, "SUPABASE_SERVICE_ROLE_KEY": project.secret_key}

    def doctor(**other: str) -> dict[str, Any]:
        return findings(
            run_worker("doctor", "--json", cwd=tmp_path, environment=environment | other)
        )

    assert doctor()["schema"]["level"] == "ok"
    owner.execute("alter table notes disable trigger all")
    assert doctor()["triggers_disabled"]["level"] == "problem"
    assert doctor(SUPABASE_SERVICE_ROLE_KEY="sb_secret_wrong")["access"]["level"] == "problem"
    assert doctor(SUPABASE_URL="http://127.0.0.1:9")["connection"]["level"] == "problem"
