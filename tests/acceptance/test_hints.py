"""What commands say if there is nothing to do, or if something other than a failure is wrong."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.acceptance.conftest import fill, refused, statuses
from tests.conftest import Database, Worker, run_worker
from worker.cli.render.progress import PlainProgress
from worker.engine.progress import RunStats

SUMMARY = "=== PROCESSING SUMMARY ===\n"

# Pauses


def test_a_pause_is_shown_by_every_command_that_shows_the_queue(
    local_notes: Database, worker: Worker
) -> None:
    fill(local_notes, 2)
    local_notes.execute("select embedding_worker_heartbeat('host:1:abc', 'host', 1)")
    assert worker("pause").stdout == (
        "Pause sent to 1 worker. It also applies to workers that start later.\n"
    )
    for command in ("status", "doctor"):
        shown = worker(command)
        assert "all workers" in shown.stdout
        assert "worker resume`" in shown.stdout
    assert json.loads(worker("status", "--json").stdout)["commands"][0]["desired_state"] == "pause"

    result = worker("process")
    assert result.returncode == 5
    assert result.stdout.startswith(SUMMARY)
    assert refused(result, 5) == (
        "workers are paused, so nothing was embedded",
        "Run `worker resume` to let workers continue.",
    )
    assert statuses(local_notes) == {"pending": 2}
    assert json.loads(worker("process", "--json").stdout)["ended"]

    assert worker("sleep", "--worker", "host:1:abc").stdout == "Sleep sent to host:1:abc.\n"
    assert "asleep: host:1:abc since" in worker("status").stdout
    worker("resume")
    assert "paused" not in worker("status").stdout
    assert worker("process").returncode == 0


# Nothing to do


def test_a_run_without_anything_to_do_says_what_would_give_it_something(
    db: Database, worker: Worker
) -> None:
    assert "worker watch TABLE" in worker("process").stderr

    db.execute("create table notes (id bigint primary key, body text)")
    fill(db, 3)
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 256)")
    hint = "hint: notes.embedding has 3 rows outside the queue; run `worker backfill`"
    result = worker("process")
    assert (result.returncode, result.stderr.splitlines()) == (0, ["Nothing is due.", hint])
    assert hint in worker("status").stdout

    assert worker("backfill").stderr == "notes.embedding: 3 rows enqueued\n"
    db.execute("update embedding_queue set available_at = now() + interval '1 hour'")
    result = worker("process")
    assert result.stderr.splitlines() == [
        "Nothing is due.",
        "hint: 3 jobs will be due later; see `worker list --pending`",
    ]
    assert "hint" not in worker("status").stdout
    db.execute(
        "update embedding_queue set status = 'failed', error_class = 'rejected',"
        " error_message = 'bad' where record_id = '1'"
    )
    db.execute("update embedding_queue set available_at = now() where status = 'pending'")
    assert worker("process").stderr == ""
    assert "1 job failed" in worker("process").stderr


def test_a_source_that_is_another_at_each_reading_is_named(db: Database, worker: Worker) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('notes', 'body || clock_timestamp()::text', 'embedding',"
        " dimensions => 256)"
    )
    fill(db, 1)
    result = worker("process")
    assert "warning: texts of notes.embedding changed while they were embedded" in result.stderr
    assert "clock_timestamp()" in result.stderr
    assert "worker watch" in result.stderr


# Percentages


def test_nothing_is_rounded_up_to_a_hundred(
    local_notes: Database, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(local_notes, 3000)
    local_notes.execute("update embedding_queue set status = 'completed'")
    local_notes.execute(
        "update embedding_queue set status = 'failed', error_class = 'rejected',"
        " error_message = 'bad' where record_id = '1'"
    )
    assert "99.9%" in worker("status").stdout
    document = json.loads(worker("status", "--json").stdout)
    assert document["columns"][0]["coverage"] == 99.9
    finding = worker("status", "--fail-if", "coverage < 100%")
    assert (finding.returncode, finding.stderr) == (
        1,
        "error: coverage is 99.9%: coverage < 100%\n",
    )
    PlainProgress(total=3000, interval=1).update(RunStats(completed=2999, started=0.0))
    assert capsys.readouterr().err.startswith("99%: 2999 of 3000")


# reprocess


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("money", "`worker reprocess '*money*'`"),
        ("it's", """`worker reprocess '*it'"'"'s*'`"""),
        ("*money*", None),
        ("m?ney", None),
        ("m*", None),
        ("~money", None),
    ],
)
def test_a_pattern_without_a_wildcard_that_matches_nothing_is_explained(
    local_notes: Database, worker: Worker, pattern: str, hint: str | None
) -> None:
    fill(local_notes, 1)
    result = worker("reprocess", pattern, "--yes")
    assert (result.stdout, result.returncode) == ("Requeued: 0\n", 0)
    first, *rest = result.stderr.splitlines()
    assert first == "nothing in the queue matches"
    assert rest == ([f"hint: a pattern must match the whole text or id: {hint}"] if hint else [])


# Variables


def test_unknown_variables_are_named_once_with_the_nearest_name(tmp_path: Path) -> None:
    tmp_path.joinpath(".env").write_text("WORKER_LOG_LEVLE=secret\n")
    environment = {"EMBEDDING_BATCHSIZE": "secret", "EMBEDDING_DELAY_MS": "soon"}
    result = run_worker("process", cwd=tmp_path, environment=environment)
    assert (result.stdout, result.returncode) == ("", 2)
    assert result.stderr.splitlines() == [
        "warning: unknown variable EMBEDDING_BATCHSIZE; did you mean EMBEDDING_BATCH_SIZE?",
        "warning: unknown variable WORKER_LOG_LEVLE; did you mean WORKER_LOG_LEVEL?",
        "hint: Unknown variables are ignored; docs/configuration.md lists all that are read.",
        "error: EMBEDDING_DELAY_MS must be a whole number from 0 to 86400000: `soon`",
        "hint: Correct the environment or .env; .env.example describes every variable.",
    ]


def test_a_log_of_json_has_no_warnings_about_variables(tmp_path: Path) -> None:
    environment = {
        "WORKER_LOG_FORMAT": "json",
        "WORKER_DATADIR": "/tmp",
        "ENABLE_BACKGROUND_EMBEDDING": "false",
    }
    result = run_worker("run", cwd=tmp_path, environment=environment)
    assert "WORKER_DATADIR" not in result.stderr


# The address of the database


def test_parameters_of_other_programs_are_named_once(
    notes: Database, database_url: str, tmp_path: Path
) -> None:
    glue = "&" if "?" in database_url else "?"
    url = f"{database_url}{glue}pgbouncer=true&schema=public&supa=base-pooler.x"
    environment = {"DATABASE_URL": url}
    result = run_worker("targets", cwd=tmp_path, environment=environment)
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "warning: DATABASE_URL has parameters of other programs: pgbouncer, schema, supa",
        "hint: They are ignored. Remove them from DATABASE_URL.",
    ]
    for command in ("doctor", "status"):
        found = run_worker(command, cwd=tmp_path, environment=environment)
        assert found.stderr.count("warning: DATABASE_URL") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@127.0.0.1:1/d?nonsense=1", 'query parameter: "nonsense"'),
        ("postgresql://u:secret@127.0.0.1:1/d?nonsense", 'query parameter: "nonsense"'),
        ("postgresql://u:pass/w?secret=1@127.0.0.1:1/d", "is not a connection string"),
        ("postgresql://u:se%zzcret@127.0.0.1:1/d", "is not a connection string"),
    ],
)
def test_a_parameter_that_nobody_knows_is_named_without_the_password(
    tmp_path: Path, url: str, said: str
) -> None:
    cause, hint = refused(run_worker("status", cwd=tmp_path, environment={"DATABASE_URL": url}), 2)
    assert said in cause
    assert "secret" not in cause + hint


# A way into the database


def test_psql_opens_the_database_and_hides_the_password(
    notes: Database, database_url: str, tmp_path: Path
) -> None:
    fill(notes, 2)
    environment = {"DATABASE_URL": database_url}
    arguments = ["psql", "-XAtc", "select count(*) from embedding_queue"]
    result = run_worker(*arguments, cwd=tmp_path, environment=environment)
    assert (result.stdout, result.stderr, result.returncode) == ("2\n", "", 0)

    fake = tmp_path / "bin" / "psql"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@" "$PGPASSWORD"; exit 3\n')
    fake.chmod(0o755)
    environment = {"DATABASE_URL": "postgres://u:s%40cret@h/d", "PATH": f"{fake.parent}:/bin"}
    result = run_worker("psql", "--csv", "-c", "x", cwd=tmp_path, environment=environment)
    assert (result.stdout, result.returncode) == (
        "--dbname postgres://u@h/d --csv -c x s@cret\n",
        3,
    )


# The file of secrets


def test_a_new_dotenv_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    dotenv = tmp_path / ".env"
    assert run_worker("init", cwd=tmp_path, environment={}).returncode == 0
    assert stat.S_IMODE(dotenv.stat().st_mode) == 0o600

    dotenv.write_text("OPENAI_API_KEY=secret")
    dotenv.chmod(0o640)
    result = run_worker("init", cwd=tmp_path, environment={})
    assert dotenv.read_text().startswith("OPENAI_API_KEY=secret\n\n# ")
    assert stat.S_IMODE(dotenv.stat().st_mode) == 0o640
    assert result.stderr.splitlines()[-2:] == [
        "warning: other users can read .env",
        "hint: chmod 600 .env",
    ]
