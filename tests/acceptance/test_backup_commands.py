"""`worker backup` as people run it: into a directory and a bucket, killed, and on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Start, fill, refused
from tests.conftest import Database, Worker, eventually, rest_in_full, rows, value
from tests.s3_server import KEY, SECRET, S3Server

ROWS = 3_000


@pytest.fixture
def vectors(notes: Database) -> Database:
    """The table `notes` with vectors that a model made, as far as the queue can tell."""
    fill(notes, ROWS)
    notes.execute("set session_replication_role = replica")
    notes.execute("update embedding_targets set model = 'test:model', document_prompt = ''")
    notes.execute("update notes set embedding = array_fill(id::real, array[8])::vector")
    notes.execute(
        "update embedding_queue set status = 'completed', model = 'test:model',"
        " completed_at = now(), content_hash = sha256(convert_to(body, 'UTF8'))"
        " from notes where record_id = notes.id::text"
    )
    return notes


def in_bucket(s3: S3Server) -> dict[str, str]:
    return {
        "BACKUP_TO": "s3://shelf/vectors",
        "S3_ENDPOINT": s3.url,
        "S3_REGION": "eu-central-1",
        "S3_ACCESS_KEY_ID": KEY,
        "S3_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def listed(worker: Worker, **environment: str) -> list[dict[str, Any]]:
    found = worker("backup", "list", "--json", **environment)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)  # type: ignore[no-any-return]


@pytest.fixture(params=["directory", "bucket"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """A directory by default, or a bucket."""
    if request.param == "directory":
        return {}
    return in_bucket(request.getfixturevalue("s3"))


def test_a_backup_is_made_listed_checked_and_deleted(
    vectors: Database, worker: Worker, environment: dict[str, str], tmp_path: Path
) -> None:
    made = worker("backup", "--json", **environment)
    assert (made.returncode, made.stderr) == (0, "")
    figures = json.loads(made.stdout)
    assert (figures["state"], figures["rows"], figures["problems"]) == ("complete", ROWS, {})
    [found] = listed(worker, **environment)
    assert (found["name"], found["rows"], found["bytes"]) == (
        figures["name"],
        ROWS,
        figures["bytes"],
    )
    assert (found["columns"], found["checked_at"]) == (["notes.embedding"], None)
    shown = worker("backup", "list", **environment).stdout.splitlines()
    assert shown[0].split() == ["name", "state", "vectors", "MB", "checked"]
    assert shown[1].split()[:3] == [figures["name"], "complete", str(ROWS)]
    checked = worker("backup", "check", **environment)
    assert checked.returncode == 0
    assert f"{figures['name']} is as it was written: {ROWS} vectors" in checked.stdout
    assert listed(worker, **environment)[0]["checked_at"]
    assert value(
        vectors, "select checked_at is not null and problem is null from embedding_backups"
    )
    pruned = worker("backup", "prune", "--keep", "1s", **environment)
    assert (pruned.returncode, pruned.stdout) == (0, "")
    assert pruned.stderr == "There was nothing to delete.\n"
    second = worker("backup", "--keep", "1s", **environment)
    assert second.stdout.splitlines()[0].startswith("Backup 20")
    assert f"Deleted: {figures['name']}" not in second.stdout  # it is the last that passed a check
    audited = rows(vectors, "select event, source from embedding_audit order by id")
    assert audited.count(("backup_completed", "cli")) == 2
    if not environment:
        made_files = [path for path in (tmp_path / "backups").rglob("*")]
        assert {path.stat().st_mode & 0o777 for path in made_files if path.is_dir()} == {0o700}
        assert {path.stat().st_mode & 0o777 for path in made_files if path.is_file()} == {0o600}


@pytest.mark.parametrize("environment", rest_in_full(["directory", "bucket"]), indirect=True)
def test_a_backup_that_was_killed_is_continued(
    vectors: Database, worker: Worker, start: Start, environment: dict[str, str]
) -> None:
    with start("backup", **environment) as process:
        # between its begin and its end: wherever that is, another one continues
        eventually(lambda: value(vectors, "select count(*) from embedding_backups"), 30)
        process.kill()
        process.wait()
    left = (
        "select exists (select from pg_stat_activity"
        " where split_part(application_name, ':', 2) = %s)"
    )
    eventually(lambda: not value(vectors, left, str(process.pid)), 30)
    was_over = value(vectors, "select state = 'complete' from embedding_backups")
    made = json.loads(worker("backup", "--json", **environment).stdout)
    assert (made["state"], made["rows"]) == ("complete", ROWS)
    assert len(listed(worker, **environment)) == 1 + was_over
    assert worker("backup", "check", **environment).returncode == 0


def test_a_damaged_backup_is_named_and_not_used(
    vectors: Database, worker: Worker, tmp_path: Path
) -> None:
    assert worker("backup").returncode == 0
    [part] = (tmp_path / "backups").rglob("*.parquet")
    content = bytearray(part.read_bytes())
    content[1000] ^= 4
    part.write_bytes(content)
    checked = worker("backup", "check")
    assert checked.returncode == 1
    assert f"parts/{part.name} is not what was written: its SHA-256 differs" in checked.stdout
    assert "SHA-256" in value(vectors, "select problem from embedding_backups")
    shown = worker("backup", "list")
    assert "damaged" in shown.stdout
    assert "SHA-256" in shown.stderr
    cause, hint = refused(worker("backup", "check"), 1)
    assert cause == "there is no complete backup at this destination"
    assert "worker backup list" in hint


def test_backups_are_listed_and_checked_without_a_database(
    vectors: Database, worker: Worker
) -> None:
    assert worker("backup").returncode == 0
    gone = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x?connect_timeout=1"}
    assert len(listed(worker, **gone)) == 1
    assert worker("backup", "check", **gone).returncode == 0


def test_a_column_that_cannot_be_read_is_named_and_the_exit_code_tells(
    vectors: Database, worker: Worker
) -> None:
    vectors.execute("create table lost (id int primary key, body text)")
    vectors.execute("select watch_embeddings('lost', 'body', 'embedding', dimensions => 8)")
    vectors.execute("drop table lost")
    made = worker("backup")
    assert made.returncode == 1
    assert "Not complete: lost.embedding: " in made.stdout
    assert "hint: Correct the problem" in made.stderr
    [found] = listed(worker)
    assert (found["state"], found["rows"]) == ("incomplete", ROWS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB. Needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of a given size can only be had by mounting one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_in_a_line_and_the_same_command_continues(
    vectors: Database, worker: Worker, small_disk: Path
) -> None:
    cause, hint = refused(worker("backup", "--to", str(small_disk)), 1)
    assert cause == f"{small_disk}: No space left on device"
    assert hint.startswith("Make room")
    assert value(vectors, "select state from embedding_backups") == "failed"
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    made = json.loads(worker("backup", "--to", str(small_disk), "--json").stdout)
    assert (made["state"], made["rows"]) == ("complete", ROWS)
    assert value(vectors, "select array_agg(state) from embedding_backups") == ["complete"]


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        (["--to", "ftp://x"], "not a destination for backups: ftp://x", "Give the path of a dir"),
        (["--to", "storage://x"], "S3_ENDPOINT, S3_REGION", "Copy them from the project"),
        (["--to", "/proc/none"], "/proc/none: ", "Check that it is a directory"),
        (["--table", "nothing"], "there is no table nothing", "Write it as in SQL"),
        (["--keep", "soon"], "invalid duration: `soon`", "Write a number and a unit"),
        (["prune"], "the age from which backups are deleted is missing", "Give --keep 7d"),
        (["check"], "there is no complete backup at this destination", "`worker backup list`"),
        (["check", "../x"], "../x is not the name of a backup", "`worker backup list`"),
        (["check", "2026-11-30T17-35-02Z"], "there is no backup 2026-11-30T17-35-02Z", "`worker"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(
    vectors: Database, worker: Worker, arguments: list[str], cause: str, hint: str
) -> None:
    result = worker("backup", *arguments)
    found = refused(result, result.returncode or 1)
    assert cause in found[0]
    assert found[1].startswith(hint)
