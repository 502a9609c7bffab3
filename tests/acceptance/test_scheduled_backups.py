"""`worker run --backup-every`, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import Start, fill, refused
from tests.conftest import REPOSITORY, Database, Worker, eventually, rows, value

LONG = 30.0  # seconds; who waits for an event that long waits for one that does not come
STATES = "select coalesce(string_agg(state, ',' order by id), '') from embedding_backups"

# A worker whose backup has a part for each range, and stands still after the first.
STUCK = """
import threading
from worker import cli
from worker.operations import backup_run
from worker.safekeeping.directory import Directory

backup_run.MOST_OF_A_PART = 1
put, first = Directory.put, []

def stuck(self, name, path):
    if first:
        threading.Event().wait()
    first.append(name)
    put(self, name, path)

Directory.put = stuck
cli.main()
"""


@pytest.fixture
def embedded(notes: Database, worker: Worker, with_openai: dict[str, str]) -> Database:
    """Notes with vectors: more than one range of them."""
    fill(notes, 6000)
    assert worker("process", **with_openai).returncode == 0
    return notes


@contextmanager
def stuck_worker(url: str, folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """A worker that stands still in its backup. Yields its process id."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, "run", "--backup-every", "4h"],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "DATABASE_URL": url,
            **environment,
        },
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def progress_in(folder: Path) -> str:
    """What the backup that is under way has recorded."""
    found = list(folder.glob("safe/daily/*/progress.json"))
    return found[0].read_text() if found else ""


def test_another_worker_continues_the_backup_of_one_that_was_killed(
    embedded: Database,
    database_url: str,
    start: Start,
    worker: Worker,
    with_openai: dict[str, str],
    tmp_path: Path,
) -> None:
    environment = {**with_openai, "BACKUP_TO": str(tmp_path / "safe")}
    with stuck_worker(database_url, tmp_path, environment) as pid:
        eventually(lambda: "0001" in progress_in(tmp_path), LONG)
        [part] = tmp_path.glob("safe/daily/*/parts/*.parquet")
        os.kill(pid, signal.SIGKILL)
    assert not list(tmp_path.glob("safe/daily/*/manifest.json"))
    before = part.stat()
    start("run", "--backup-every", "4h", **environment)
    eventually(lambda: value(embedded, STATES) == "complete", LONG)
    after = part.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert value(embedded, "select rows from embedding_backups") == 6000
    assert worker("status").stdout.count("\nbackup: ") == 1
    assert rows(embedded, "select event, source from embedding_audit where event ~ 'backup'") == [
        ("backup_completed", "cli")
    ]


def test_the_settings_do_as_the_flags(
    notes: Database, start: Start, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    fill(notes, 5)
    environment = {
        **with_openai,
        "BACKUP_TO": str(tmp_path / "safe"),
        "BACKUP_EVERY": "1s",
        "BACKUP_KEEP": "7d",
    }
    assert worker("process", **with_openai).returncode == 0
    start("run", **environment)
    eventually(lambda: value(notes, STATES).startswith("complete"), LONG)
    result = worker("status", "--json", "--fail-if", "failed_backups > 0")
    assert result.returncode == 0
    assert json.loads(result.stdout)["backups"][0]["state"] == "complete"


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--keep", "7d"], {}, "--backup-every"),
        (["--backup-every", "soon"], {}, "4h|24h"),
        (["--backup-every", "4h"], {"BACKUP_TO": "ftp://host/x"}, "s3://"),
    ],
)
def test_what_cannot_work_is_refused_before_the_worker_starts(
    notes: Database,
    worker: Worker,
    with_openai: dict[str, str],
    arguments: list[str],
    environment: dict[str, str],
    words: str,
) -> None:
    _, hint = refused(worker("run", *arguments, **{**with_openai, **environment}), 2)
    assert any(word in hint for word in words.split("|"))
    assert value(notes, "select count(*) from embedding_workers") == 0


def test_a_failure_is_notified_once(
    notes: Database, start: Start, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    fill(notes, 5)
    assert worker("process", **with_openai).returncode == 0
    (tmp_path / "safe").write_text("no directory")
    told = tmp_path / "told"
    environment = {
        **with_openai,
        "BACKUP_TO": str(tmp_path / "safe"),
        "NOTIFY_COMMAND": f"cat >> {told}",
    }
    for _ in range(2):
        start("run", "--backup-every", "4h", **environment)
    eventually(told.exists, LONG)
    eventually(lambda: "backup_failed" in told.read_text(), LONG)
    notes.execute("update embedding_backups set finished_at = finished_at - interval '1 hour'")
    eventually(lambda: value(notes, "select failures from embedding_backups") >= 2, LONG)
    assert told.read_text().count('"backup_failed"') == 1
