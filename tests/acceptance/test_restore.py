"""`worker restore` as people run it: what it prints, and what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import Start, fill, refused
from tests.conftest import Database, Worker, eventually, rows, value

ROWS = 3_000


@pytest.fixture
def lost(notes: Database, worker: Worker) -> Database:
    """The table `notes`, whose vectors were backed up and then lost."""
    fill(notes, ROWS)
    notes.execute("set session_replication_role = replica")
    notes.execute("update embedding_targets set model = 'test:model', document_prompt = ''")
    notes.execute("update notes set embedding = array_fill(id::real, array[8])::vector")
    notes.execute(
        "update embedding_queue set status = 'completed', model = 'test:model',"
        " completed_at = now(), content_hash = sha256(convert_to(body, 'UTF8'))"
        " from notes where record_id = notes.id::text"
    )
    assert worker("backup").returncode == 0
    notes.execute("update notes set embedding = null")
    notes.execute("reset session_replication_role")
    return notes


def restored(db: Database) -> int:
    found: int = value(
        db, "select count(*) from notes where embedding = array_fill(id::real, array[8])::vector"
    )
    return found


def test_lost_vectors_are_counted_and_restored(lost: Database, worker: Worker) -> None:
    lost.execute("update notes set body = 'new' where id <= 10")
    lost.execute("delete from notes where id = 11")
    tried = worker("restore", "latest", "--dry-run")
    assert tried.returncode == 0
    assert "nothing is written (--dry-run)" in tried.stdout
    heads, figures = (line.split() for line in tried.stdout.splitlines()[1:])
    assert heads[:4] == ["column", "restored", "present", "other"]
    assert figures == ["notes.embedding", str(ROWS - 11), "0", "0", "10", "1", "0", "0"]
    assert "how much is free cannot be seen" in tried.stderr
    assert restored(lost) == 0
    done = worker("restore", "latest", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["is_finished"], found["dry_run"]) == (True, False)
    [column] = found["columns"]
    assert (column["table"], column["column"], column["is_indexed"]) == (
        *("notes", "embedding"),
        False,
    )
    assert column["outcomes"]["restored"] == ROWS - 11
    assert restored(lost) == ROWS - 11
    again = worker("restore", found["name"], "--table", "notes")
    assert f"Backup {found['name']} restored: 0 records written" in again.stdout
    assert "notes.embedding has no valid vector index: `worker index notes`" in again.stderr
    one = worker("restore", "latest", "--table", "notes", "--record", "42")
    assert one.stdout.splitlines()[-1].split()[:3] == ["notes.embedding", "0", "1"]
    assert rows(lost, "select event, source from embedding_audit where event = 'restored'") == [
        ("restored", "cli")
    ]


def test_a_restore_that_was_killed_is_continued(
    lost: Database, worker: Worker, start: Start
) -> None:
    lost.execute(
        "create function pause() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.001); return new; end $$"
    )
    lost.execute(
        "create trigger pause before update on notes for each row execute function pause()"
    )
    with start("restore", "latest") as process:
        eventually(lambda: restored(lost), 30)
        process.kill()
        process.wait()
    left = (
        "select exists (select from pg_stat_activity"
        " where split_part(application_name, ':', 2) = %s)"
    )
    eventually(lambda: not value(lost, left, str(process.pid)), 30)
    before = restored(lost)
    assert 0 < before < ROWS
    completed = value(lost, "select count(*) from embedding_queue where vector_hash is not null")
    assert completed == before
    found = json.loads(worker("restore", "latest", "--json").stdout)
    outcomes = found["columns"][0]["outcomes"]
    assert (outcomes["present"], outcomes["restored"]) == (before, ROWS - before)
    assert (found["is_finished"], restored(lost)) == (True, ROWS)


def test_what_cannot_be_restored_is_said_in_one_line(
    lost: Database, worker: Worker, tmp_path: Path
) -> None:
    cause, hint = refused(worker("restore", "latest", "--record", "1"), 2)
    assert (cause, hint) == (
        "a record was given without its table",
        "Name the table as well: --table TABLE.",
    )
    cause, _ = refused(worker("restore", "latest", "--table", "notes", "--record", "0"), 1)
    assert cause.endswith("has no vector of record 0")
    cause, hint = refused(worker("restore", "latest", "--to", str(tmp_path / "nothing")), 1)
    assert cause == "there is no complete backup at this destination"
    [part] = (tmp_path / "backups").rglob("*.parquet")
    part.unlink()
    [name] = [path.name for path in (tmp_path / "backups" / "daily").iterdir()]
    cause, hint = refused(worker("restore", name), 1)
    assert cause == f"backup {name} cannot be restored: parts/{part.name} is missing"
    assert "--table" in hint
    assert restored(lost) == 0


def test_rows_that_the_table_refuses_leave_an_exit_code(lost: Database, worker: Worker) -> None:
    lost.execute("alter table notes add constraint small check (id <> 7 or embedding is null)")
    done = worker("restore", "latest")
    assert done.returncode == 1
    assert "not restored as a whole" in done.stdout
    assert "notes.embedding: 7 was refused: " in done.stderr
    assert "small" in done.stderr
    assert "the same command continues it" in done.stderr
