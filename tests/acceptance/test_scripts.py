"""The scripts for cron, run as they are in a checkout of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.conftest import Held, fill, statuses
from tests.conftest import REPOSITORY, Database, memory, rest_in_full, rows
from tests.openai_server import OpenAIServer, out_of_quota

if not shutil.which("bash"):
    pytest.skip("the scripts need bash", allow_module_level=True)

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \S.*")

Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that is set up already, with this Python: the scripts and their `.venv`."""
    folder = tmp_path / "check out"
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, folder)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "worker"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m worker "$@"\n'
    )
    program.chmod(0o755)
    installed = subprocess.run(
        "cat pyproject.toml requirements.lock | cksum",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / ".venv" / ".installed").write_text(installed.stdout)
    return folder


@pytest.fixture
def script(checkout: Path, tmp_path: Path, database_url: str) -> Script:
    """Starts a script from elsewhere, as cron does, with the database in its environment only."""

    def script(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(checkout / "scripts" / name), *arguments],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": database_url,
                "BACKFILL_LOCK": str(tmp_path / "backfill.lock"),
                "BACKUP_LOCK": str(tmp_path / "backup.lock"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return script


def ended(process: subprocess.Popen[str]) -> tuple[list[str], int]:
    """The lines on stdout, and the exit code. There is nothing on stderr."""
    stdout, stderr = process.communicate(timeout=60)
    assert stderr == ""
    return stdout.splitlines(), process.returncode


def without_time(lines: list[str]) -> list[str]:
    """The lines behind their time stamps, which all of them have."""
    assert [line for line in lines if not STAMPED.fullmatch(line)] == []
    return [line.split(" ", 1)[1] for line in lines]


def lacking_vectors(db: Database, count: int, width: int) -> Database:
    """`count` rows that were there before their column was watched."""
    db.execute("create table notes (id bigint primary key, body text)")
    fill(db, count)
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => %s)", [width])
    return db


def test_backfill_enqueues_and_embeds_and_stamps_every_line(db: Database, script: Script) -> None:
    lacking_vectors(db, 3, 256)
    lines, code = ended(script("backfill.sh"))
    assert code == 0
    told = without_time(lines)
    assert set(told[:2]) == {"notes.embedding: 3 rows enqueued", "Enqueued: 3"}
    assert told[2:6] == [
        "=== PROCESSING SUMMARY ===",
        "Total records processed: 3",
        "Total errors: 0",
        "Success rate: 100.0%",
    ]
    assert statuses(db) == {"completed": 3}


@pytest.mark.only_in_full
def test_backfill_hands_its_arguments_to_both(db: Database, script: Script) -> None:
    lacking_vectors(db, 3, 256)
    db.execute("create table others (id bigint primary key, body text)")
    db.execute("select watch_embeddings('others', 'body', 'embedding', dimensions => 256)")
    db.execute("insert into others values (1, 'a text')")
    _, code = ended(script("backfill.sh", "--table", "notes", "--column", "embedding"))
    assert code == 0
    found = rows(db, "select distinct table_name, status from embedding_queue order by 1")
    assert found == [("notes", "completed"), ("others", "pending")]


def test_two_backfills_never_overlap(
    db: Database, script: Script, with_openai: dict[str, str], held: Held
) -> None:
    lacking_vectors(db, 3, 8)
    first = script("backfill.sh", **with_openai)
    assert held.arrived.wait(60)
    lines, code = ended(script("backfill.sh", **with_openai))
    assert code == 0
    assert without_time(lines) == ["another backfill is still running: nothing done"]
    held.let_go.set()
    assert ended(first)[1] == 0
    assert statuses(db) == {"completed": 3}
    lines, code = ended(script("backfill.sh", **with_openai))
    assert (code, "Enqueued: 0" in without_time(lines)) == (0, True)


@pytest.mark.only_in_full
def test_backfill_passes_the_exit_code_on(
    db: Database, script: Script, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    lacking_vectors(db, 3, 8)
    openai.reject = lambda text: text == "note number 2"
    lines, code = ended(script("backfill.sh", **with_openai))
    assert code == 1
    assert "Total errors: 1" in without_time(lines)
    db.execute("update embedding_queue set status = 'pending'")
    openai.faults.extend([out_of_quota] * 2)
    lines, code = ended(script("backfill.sh", **with_openai))
    assert code == 4
    assert [line for line in without_time(lines) if line.startswith("error: ")]


def test_backfill_without_a_schema_ends_before_it_processes(
    script: Script, empty_database_url: str
) -> None:
    lines, code = ended(script("backfill.sh", DATABASE_URL=empty_database_url))
    assert code == 3
    assert [line.split(":")[0] for line in without_time(lines)] == ["error", "hint"]


def test_the_cautious_processor_takes_five_and_waits_a_second(
    db: Database, script: Script, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    lacking_vectors(db, 7, 8)
    db.execute("update notes set body = body || '!'")
    lines, code = ended(script("run-embedding-processor.sh", **with_openai))
    assert (code, lines[0]) == (0, "=== PROCESSING SUMMARY ===")
    assert [len(request.texts) for request in openai.requests] == [5, 2]
    times = rows(
        db,
        "select extract(epoch from min(completed_at)), extract(epoch from max(completed_at))"
        " from embedding_queue group by updated_at order by updated_at",
    )
    [((_, end), (begin, _))] = pairwise(times)
    assert begin - end >= 1


@pytest.mark.only_in_full
def test_the_cautious_processor_can_be_told_its_pace(
    db: Database, script: Script, openai: OpenAIServer, with_openai: dict[str, str]
) -> None:
    lacking_vectors(db, 7, 8)
    db.execute("update notes set body = body || '!'")
    _, code = ended(script("run-embedding-processor.sh", "3", "1", **with_openai))
    assert code == 0
    assert [len(request.texts) for request in openai.requests] == [3, 3, 1]


@pytest.mark.only_in_full
def test_the_cautious_processor_passes_the_exit_code_on(
    script: Script, empty_database_url: str
) -> None:
    process = script("run-embedding-processor.sh", DATABASE_URL=empty_database_url)
    stdout, stderr = process.communicate(timeout=60)
    assert (stdout, process.returncode) == ("", 3)
    assert [line.split(":")[0] for line in stderr.splitlines()] == ["error", "hint"]


def test_monitor_and_backup_repairs_first_and_passes_failures_on(
    notes: Database, script: Script, with_openai: dict[str, str], tmp_path: Path
) -> None:
    fill(notes, 20)
    environment = with_openai | {"BACKUP_TO": str(tmp_path / "backups")}
    _, code = ended(script("backfill.sh", **environment))
    assert code == 0
    lines, code = ended(script("monitor-and-backup.sh", **environment))
    assert code == 0
    assert all(map(STAMPED.fullmatch, lines))
    assert lines[0].endswith("notes.embedding: 20 vectors, all sound")
    assert re.search(r"Backup \S+: 20 vectors", lines[-1])
    notes.execute("update notes set embedding = null where id = 3")
    lines, code = ended(script("monitor-and-backup.sh", **environment))
    assert code == 0
    assert any("repaired: 0 from the cache, 1 from a backup" in line for line in lines)
    lines, code = ended(
        script("monitor-and-backup.sh", **environment | {"BACKUP_TO": "/dev/null/x"})
    )
    assert code == 1
    assert any("all sound" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "shown"),
    rest_in_full(
        [
            ("demo-reembedding", ["summaries.content_embedding: ready", "State: finished"]),
            ("demo-files", ["leaving.md"]),
        ]
    ),
)
def test_a_demo_needs_nothing_and_leaves_nothing(
    script: Script, name: str, shown: list[str]
) -> None:
    # not below pytest's own folder, into which the user that root's server has cannot look
    with tempfile.TemporaryDirectory(prefix="embedding-worker-", dir=memory()) as folder:
        output, said = script(name, TMPDIR=folder).communicate(timeout=120)
        assert all(words in output for words in shown), output + said
        left = {path.name for path in Path(folder).iterdir()}
        assert left <= {f"embedding-worker-{os.getuid()}"}  # where servers have their sockets


def test_every_script_can_be_run() -> None:
    scripts = [path for path in (REPOSITORY / "scripts").iterdir() if path.is_file()]
    assert scripts
    for path in scripts:
        assert os.access(path, os.X_OK), path
        assert path.read_text(encoding="utf-8").startswith("#!"), path


def test_the_crontab_runs_what_is_in_a_checkout(
    db: Database, checkout: Path, tmp_path: Path, database_url: str
) -> None:
    lacking_vectors(db, 0, 256)
    fill(db, 3)
    lines = (REPOSITORY / "deploy/crontab").read_text(encoding="utf-8").splitlines()
    jobs = [line.split(maxsplit=5) for line in lines if line and not line.startswith("#")]
    for *fields, command in jobs:
        assert all(re.fullmatch(r"\*|\d+|\*/\d+", field) for field in fields), fields
        assert "%" not in command, "cron would end the command there"
        for name in re.findall(r"scripts/[\w.-]+", command):
            assert os.access(checkout / name, os.X_OK)
    (checkout / ".env").write_text(f"DATABASE_URL={database_url}\n")
    (tmp_path / "srv").symlink_to(checkout)
    [*_, command], *_ = jobs
    here = command.replace("/srv/embedding-worker", str(tmp_path / "srv"))
    subprocess.run(["/bin/sh", "-c", here], env={"PATH": os.environ["PATH"]}, check=True)
    assert "Total records processed: 3" in (checkout / "worker.log").read_text()
    assert statuses(db) == {"completed": 3}
