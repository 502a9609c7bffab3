"""Backups: what is in them, how they continue, and what else happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY, Database, rest_in_full, rows
from tests.integration import chunks
from tests.integration.jobs import claim, complete, insert
from tests.s3_server import S3Server
from worker.errors import BackupDamaged, BackupError, SettingsError, Unreachable
from worker.operations import backup_run
from worker.operations.backup import BackupRequest, MadeBackup, make_backup
from worker.queue import AdminQueue, StoredRow
from worker.queue.postgres import PostgresQueue
from worker.safekeeping.directory import Directory
from worker.safekeeping.inventory import (
    check_backup,
    find_backup,
    find_backups,
    folder_of,
    prune,
    read_manifest,
)
from worker.safekeeping.locations import open_storage, parse_destination
from worker.safekeeping.manifest import MANIFEST, PROGRESS, Manifest, to_json
from worker.safekeeping.parts import read_part
from worker.safekeeping.storage import Storage
from worker.settings import Settings

ROWS = 60
WEEK = timedelta(days=7)


class Killed(BaseException):
    """What `kill -9` does to a process, as far as the process itself can tell."""


@dataclass
class Place:
    """Where the backups of a test are, and the queue they are made of."""

    queue: AdminQueue
    to: str
    settings: Settings

    @property
    def storage(self) -> Storage:
        return open_storage(parse_destination(self.to), self.settings)

    def back_up(self, **options: Any) -> MadeBackup:
        made = self.try_to_back_up(**options)
        assert made
        return made

    def try_to_back_up(
        self, *, stop: Event | None = None, on_progress: Any = lambda *_: None, **request: Any
    ) -> MadeBackup | None:
        wanted = BackupRequest(parse_destination(self.to), **request)
        return make_backup(
            self.queue, self.settings, wanted, stop=stop, on_progress=on_progress, source="cli"
        )

    def manifest(self, name: str) -> Manifest:
        return read_manifest(self.storage, name)

    def rows_of(self, name: str, column: str = "docs.embedding") -> list[StoredRow]:
        """All rows of a column, from all of its parts."""
        [found] = [each for each in self.manifest(name).columns if each.name == column]
        read = []
        for part in found.parts:
            with self.storage.local(folder_of(name) + part.name) as path:
                read += [row for group in read_part(path, part, found) for row in group]
        return read


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for every twenty rows."""
    monkeypatch.setattr(backup_run, "RANGE", 10)
    monkeypatch.setattr(backup_run, "MOST_OF_A_PART", 2000)


@pytest.fixture
def place(queue: AdminQueue, tmp_path: Path) -> Place:
    return Place(queue, str(tmp_path / "backups"), Settings())


@pytest.fixture(params=["directory", "bucket"])
def any_place(request: pytest.FixtureRequest, place: Place) -> Place:
    if request.param == "directory":
        return place
    s3: S3Server = request.getfixturevalue("s3")
    return Place(place.queue, "s3://shelf/backups", s3.settings)


def fill(docs: Database, queue: AdminQueue, count: int = ROWS) -> None:
    insert(docs, count)
    assert not complete(queue, claim(queue, count))


def stored(docs: Database) -> list[tuple[Any, ...]]:
    """What a backup is to have of `docs`."""
    return rows(
        docs,
        "select record_id, content_hash, embedding::text, completed_at from docs"
        " join embedding_queue on record_id = docs.id::text where embedding is not null"
        " order by docs.id",
    )


def in_backup(found: list[StoredRow]) -> list[tuple[Any, ...]]:
    return [
        (
            row.record_id,
            row.content_hash,
            "[" + ",".join(f"{number:g}" for number in row.vector) + "]",
            row.completed_at,
        )
        for row in found
    ]


def test_a_backup_has_all_vectors_and_is_found_checked_and_listed(
    docs: Database, any_place: Place
) -> None:
    fill(docs, any_place.queue)
    made = any_place.back_up()
    assert (made.state, made.rows, made.kept_rows, made.problems) == ("complete", ROWS, 0, {})
    manifest = any_place.manifest(made.name)
    [column] = manifest.columns
    assert (column.name, column.key_columns, column.key_types) == (
        "docs.embedding",
        ("id",),
        ("bigint",),
    )
    assert (column.vector_type, column.width, column.model) == ("vector", 3, "test:model")
    assert len(column.parts) > 2
    assert [part.first for part in column.parts][1:] == [
        str(int(part.last) + 1) for part in column.parts[:-1]
    ]
    assert in_backup(any_place.rows_of(made.name)) == stored(docs)
    [found] = find_backups(any_place.storage)
    assert (found.name, found.state, found.checked_at) == (made.name, "complete", None)
    assert find_backup(any_place.storage, "latest") == found
    checked = check_backup(any_place.storage, made.name)
    assert (checked.rows, checked.bytes, checked.problems) == (ROWS, made.bytes, ())
    [found] = find_backups(any_place.storage)
    assert found.checked_at
    [known] = any_place.queue.backups()
    assert (known.state, known.name, known.rows, known.bytes) == (
        "complete",
        made.name,
        ROWS,
        made.bytes,
    )
    assert known.destination == str(parse_destination(any_place.to))
    names = {name.removeprefix(folder_of(made.name)) for name in any_place.storage.names()}
    assert names == {MANIFEST, "check.json", *(part.name for part in column.parts)}


def test_no_text_is_in_a_backup(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    place.back_up()
    for path in Path(place.to).rglob("*.*"):
        assert b"text " not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_only_sound_vectors_of_completed_jobs_are_backed_up(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    docs.execute("update docs set body = 'edited' where id = 1")
    docs.execute("update docs set embedding = null where id = 2")
    docs.execute("update docs set embedding = '[9,9,9]' where id = 3")
    docs.execute("delete from docs where id = 4")
    insert_one = "insert into docs values (100, 'not embedded yet')"
    docs.execute(insert_one)
    made = place.back_up()
    assert [row.record_id for row in place.rows_of(made.name)] == [
        str(number) for number in range(5, ROWS + 1)
    ]


def test_a_column_without_vectors_is_backed_up_as_such(docs: Database, place: Place) -> None:
    made = place.back_up()
    assert (made.state, made.rows, made.bytes) == ("complete", 0, 0)
    [column] = place.manifest(made.name).columns
    assert (column.parts, column.model) == ((), None)
    assert check_backup(place.storage, made.name).problems == ()


def test_rows_without_vectors_at_the_end_need_no_part(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    docs.execute("update docs set embedding = null where id > 20")
    made = place.back_up()
    [column] = place.manifest(made.name).columns
    assert (column.rows, column.parts[-1].looked_to) == (20, None)


def test_texts_in_chunks_are_backed_up_by_chunk(db: Database, place: Place) -> None:
    chunks.create_chunked(db)
    db.execute(
        "insert into docs select n, 't', 'One. Two ' || n || '. ' from generate_series(1, 30) n"
    )
    for document in chunks.claim(db):
        chunks.stage(db, document)
        chunks.complete(db, document)
    made = place.back_up()
    [column] = place.manifest(made.name).columns
    assert column.chunks
    assert (column.rows, column.chunks.unit) == (60, "characters")
    found = place.rows_of(made.name)
    assert {(row.record_id, row.content_hash) for row in found} == {
        (record, bytes(hash)) for record, hash in rows(db, "select id::text, hash from docs_chunks")
    }
    last = [part.last for part in column.parts]
    assert not {part.first for part in column.parts[1:]} & set(last)  # no text is cut


def test_halfvecs_and_keys_of_several_columns(db: Database, place: Place) -> None:
    db.execute(
        'create table docs (id uuid default gen_random_uuid(), "No" int, body text, v halfvec(3),'
        ' primary key (id, "No"))'
    )
    db.execute("select watch_embeddings('docs', 'body', 'v')")
    db.execute("insert into docs select gen_random_uuid(), n, 'text' from generate_series(1, 30) n")
    vector = np.array([0.1, 1, 0], np.float32)
    assert not complete(place.queue, claim(place.queue), vector)
    made = place.back_up()
    [column] = place.manifest(made.name).columns
    assert (column.key_columns, column.key_types) == (("id", "No"), ("uuid", "integer"))
    assert column.vector_type == "halfvec"
    found = place.rows_of(made.name, "docs.v")
    half = np.float32(np.float16(0.1))
    assert len(found) == 30
    assert all(row.vector[0] == half for row in found)


def test_names_of_any_kind_become_names_of_files(db: Database, any_place: Place) -> None:
    table = '"../Ä %/x"'
    db.execute(f"create table {table} (id int primary key, body text)")
    db.execute("select watch_embeddings(%s, 'body', '../e', dimensions => 3)", [table])
    db.execute(f"insert into {table} values (1, 'text')")
    assert not complete(any_place.queue, claim(any_place.queue))
    made = any_place.back_up()
    assert made.rows == 1
    assert check_backup(any_place.storage, made.name).problems == ()


def test_vectors_of_another_width_are_left_out_and_counted(db: Database, place: Place) -> None:
    db.execute("create table docs (id bigint primary key, body text, v vector)")
    db.execute("select watch_embeddings('docs', 'body', 'v')")
    insert(db, 40)
    assert not complete(place.queue, claim(place.queue))
    db.execute("update docs set v = '[1,2]' where id = 30")
    db.execute("update embedding_queue set vector_hash = null")
    made = place.back_up()
    assert made.problems == {"docs.v": "1 vectors have another width than the first"}
    assert len(place.rows_of(made.name, "docs.v")) == 39
    assert check_backup(place.storage, made.name).problems == ()


# What is wrong with a column


def second_table(db: Database, queue: AdminQueue) -> None:
    """A table `notes` before `docs` in no order, and one behind it, both with vectors."""
    for table in ("aaa", "zzz"):
        db.execute(f"create table {table} (id bigint primary key, body text)")
        db.execute("select watch_embeddings(%s, 'body', 'embedding', dimensions => 3)", [table])
        db.execute(f"insert into {table} select n, 'x' from generate_series(1, 15) n")
        assert not complete(queue, claim(queue))


def test_a_table_that_is_locked_or_gone_does_not_hold_up_the_others(
    docs: Database, place: Place, connect: Callable[[], Database]
) -> None:
    fill(docs, place.queue)
    second_table(docs, place.queue)
    docs.execute("drop table aaa")
    with connect().transaction() as transaction:
        transaction.connection.execute("lock table zzz")
        made = place.back_up()
    assert (made.state, made.rows, set(made.problems)) == (
        "incomplete",
        ROWS,
        {"aaa.embedding", "zzz.embedding"},
    )
    assert "locked" in made.problems["zzz.embedding"]
    assert [each.name for each in place.manifest(made.name).columns if not each.problem] == [
        "docs.embedding"
    ]
    [found] = find_backups(place.storage)
    assert found.state == "incomplete"
    assert "zzz.embedding: " in str(found.problem)
    with pytest.raises(BackupError, match="no complete backup"):
        find_backup(place.storage, "latest")
    assert place.queue.backups()[0].state == "complete"
    docs.execute("select unwatch_embeddings('aaa', 'embedding')")
    again = place.back_up()
    assert (again.state, again.rows) == ("complete", ROWS + 15)


def test_a_suspended_column_is_backed_up_while_it_can_be_read(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    docs.execute("update embedding_targets set problem = 'its source is gone'")
    assert (place.back_up().state, place.back_up().rows) == ("complete", ROWS)


def test_a_column_that_gets_another_model_meanwhile_is_named(docs: Database, place: Place) -> None:
    fill(docs, place.queue)

    def change(rows: int, _: int) -> None:
        if rows == 20:
            docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'x:other')")

    made = place.back_up(on_progress=change)
    assert made.state == "incomplete"
    assert made.problems == {"docs.embedding": "it got another model, width or key meanwhile"}


def test_a_table_alone(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    second_table(docs, place.queue)
    made = place.back_up(table="zzz")
    assert (made.rows, place.queue.backups()[0].only_table) == (15, "zzz")
    with pytest.raises(SettingsError, match="table nothing"):
        place.back_up(table="nothing")
    for table in ("aaa", "zzz", "docs"):
        docs.execute("select unwatch_embeddings(%s, 'embedding')", [table])
    with pytest.raises(SettingsError, match="no column is watched"):
        place.back_up()


# Continuing


@dataclass
class Steps:
    """Counts what a backup writes, and kills it before or after one of these steps."""

    patch: pytest.MonkeyPatch
    left: int = 10**6
    done: int = 0

    def watch(self, kind: type[Any], *calls: str) -> None:
        for name in calls:
            self.patch.setattr(kind, name, self._counted(getattr(kind, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            self._step()
            result = call(*given, **named)
            self._step()
            return result

        return counted

    def _step(self) -> None:
        self.done += 1
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("any_place", rest_in_full(["directory", "bucket"]), indirect=True)
def test_a_backup_that_is_killed_anywhere_is_continued_by_the_same_call(
    docs: Database, any_place: Place, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    fill(docs, any_place.queue)
    kind = type(any_place.storage)
    steps = Steps(monkeypatch)
    steps.watch(kind, "put", "put_bytes", "delete", "delete_unfinished")
    steps.watch(type(any_place.queue), "end_backup")
    any_place.back_up()
    points = steps.done
    assert points > 15
    every = (1 if full else 3) if kind is Directory else (5 if full else 17)  # a bucket is slow
    for point in range(1, points + 1, every):
        steps.left = point
        with pytest.raises(Killed):
            any_place.try_to_back_up()
        unfinished = any_place.queue.backups()[-1]
        was_reported = unfinished.state == "complete"
        by_name = {found.name: found for found in find_backups(any_place.storage)}
        steps.left = 10**6
        made = any_place.back_up()
        if not was_reported:
            assert made.name == unfinished.name
            if made.name in by_name and by_name[made.name].state == "unfinished":
                assert made.kept_rows == getattr(by_name[made.name].manifest, "rows", 0)
        assert (made.state, made.rows) == ("complete", ROWS)
        assert in_backup(any_place.rows_of(made.name)) == stored(docs)
        parts = {part.name for part in any_place.manifest(made.name).columns[0].parts}
        folder = folder_of(made.name)
        assert {name.removeprefix(folder) for name in any_place.storage.names(folder)} == {
            MANIFEST,
            *parts,
        }
    states = {known.state for known in any_place.queue.backups()}
    assert states == {"complete"}


KILLED_PROCESS = """
import os, signal, sys
from worker.operations import backup_run
from worker.safekeeping.bucket import Bucket
backup_run.RANGE, backup_run.MOST_OF_A_PART = 10, 2000
left = int(sys.argv.pop(1))
def step():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
replace = os.replace
os.replace = lambda *given: (step(), replace(*given))  # a file is written, and has no name yet
begin = Bucket.__init__
def __init__(self, location, client):
    begin(self, location, client)
    client.meta.events.register("before-send.s3.PutObject", lambda **_: step())
Bucket.__init__ = __init__
from worker.cli import main
main()
"""


@pytest.mark.parametrize("any_place", rest_in_full(["directory", "bucket"]), indirect=True)
def test_a_process_is_killed_at_many_points_and_the_same_command_ends_the_backup(
    docs: Database, any_place: Place, database_url: str, tmp_path: Path, full: bool
) -> None:
    fill(docs, any_place.queue)
    settings = any_place.settings
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "DATABASE_URL": database_url,
        "BACKUP_TO": any_place.to,
        "S3_ENDPOINT": settings.s3_endpoint or "",
        "S3_REGION": settings.s3_region or "",
        "S3_ACCESS_KEY_ID": settings.s3_access_key_id or "",
        "S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key or "",
    }

    def run(kill_at: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED_PROCESS, str(kill_at), "backup", "--json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    # the same part, the next one, what is known of both, …
    for kill_at in (1, 2, 4, 4, 6, 3) if full else (1, 4, 6):
        assert run(kill_at).returncode == -9
        assert [found.state for found in find_backups(any_place.storage)] in ([], ["unfinished"])
    ended = run(10**6)
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout)
    assert (made["state"], made["rows"]) == ("complete", ROWS)
    assert 0 < made["kept_rows"] <= ROWS
    assert in_backup(any_place.rows_of(made["name"])) == stored(docs)
    assert check_backup(any_place.storage, made["name"]).problems == ()
    [known] = any_place.queue.backups()
    assert known.state == "complete"
    left = [*Path(any_place.to).rglob("*.partial"), *Path(any_place.to).rglob("progress.json")]
    assert not left


def stop_after(count: int, stop: Event) -> Callable[[int, int], None]:
    def on_progress(done: int, _: int) -> None:
        if done >= count:
            stop.set()

    return on_progress


def unfinished(place: Place, count: int = 25) -> MadeBackup:
    """Begin a backup and stop it after so many rows."""
    stop = Event()
    made = place.back_up(stop=stop, on_progress=stop_after(count, stop))
    assert made.state == "unfinished"
    return made


def test_a_backup_that_is_stopped_can_be_continued_at_once(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    stopped = unfinished(place)
    assert 25 <= stopped.rows < ROWS
    with pytest.raises(BackupDamaged, match="it is not finished"):
        place.manifest(stopped.name)
    assert [found.state for found in find_backups(place.storage)] == ["unfinished"]
    made = place.back_up()
    assert (made.name, made.state, made.kept_rows) == (stopped.name, "complete", stopped.rows)
    assert in_backup(place.rows_of(made.name)) == stored(docs)


@pytest.mark.parametrize(
    "damage", rest_in_full(["flipped", "cut", "gone", "progress", "no progress"], first=3)
)
def test_what_is_damaged_of_an_earlier_attempt_is_written_again(
    docs: Database, place: Place, damage: str
) -> None:
    fill(docs, place.queue)
    stopped = unfinished(place, 45)
    folder = Path(place.to) / folder_of(stopped.name)
    second = sorted((folder / "parts").iterdir())[1]
    content = second.read_bytes()
    if damage == "flipped":
        second.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    elif damage == "cut":
        second.write_bytes(content[:-1])
    elif damage == "gone":
        second.unlink()
    elif damage == "progress":
        (folder / PROGRESS).write_bytes((folder / PROGRESS).read_bytes()[:-100])
    else:
        (folder / PROGRESS).unlink()
    made = place.back_up()
    assert made.kept_rows == (0 if "progress" in damage else 20)
    assert in_backup(place.rows_of(made.name)) == stored(docs)
    assert check_backup(place.storage, made.name).problems == ()
    assert len(list((folder / "parts").iterdir())) == len(
        place.manifest(made.name).columns[0].parts
    )


def test_parts_of_another_model_are_not_continued(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    unfinished(place)
    docs.execute("set session_replication_role = replica")  # nothing is embedded again
    docs.execute("update embedding_targets set document_prompt = 'other: '")
    docs.execute("update embedding_queue set model = 'test:model#other: '")
    made = place.back_up()
    assert (made.state, made.kept_rows, made.rows) == ("complete", 0, ROWS)
    assert {row.model for row in place.rows_of(made.name)} == {"test:model#other: "}


def test_a_column_that_is_not_watched_any_more_is_left_out(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    second_table(docs, place.queue)
    assert unfinished(place, 5).rows  # of aaa
    docs.execute("select unwatch_embeddings('aaa', 'embedding')")
    made = place.back_up()
    assert (made.state, made.rows) == ("complete", ROWS + 15)
    assert [each.table for each in place.manifest(made.name).columns] == ["docs", "zzz"]


def test_edits_and_deletes_before_a_backup_goes_on_lose_nothing_else(
    docs: Database, place: Place
) -> None:
    fill(docs, place.queue)
    unfinished(place)
    docs.execute("delete from docs where id in (20, 21, 40)")
    docs.execute("update docs set body = 'edited' where id = 50")
    made = place.back_up()
    found = {int(row.record_id) for row in place.rows_of(made.name)}
    assert {number for number in range(1, ROWS + 1)} - found <= {20, 21, 40, 50}


def test_an_outage_of_the_database_leaves_what_there_is(docs: Database, place: Place) -> None:
    fill(docs, place.queue)

    def cut(done: int, _: int) -> None:
        if done == 30:
            raise Unreachable("the database is gone")

    with pytest.raises(Unreachable):
        place.try_to_back_up(on_progress=cut)
    [known] = place.queue.backups()
    assert (known.state, known.error_message) == ("failed", "the database is gone")
    made = place.back_up()
    assert (made.name, made.kept_rows, made.state) == (known.name, 20, "complete")


# Several at once


def test_of_two_backups_at_once_one_is_made(
    docs: Database, place: Place, database_url: str
) -> None:
    fill(docs, place.queue)
    began, go_on = Event(), Event()
    results: list[MadeBackup | None] = []

    def wait(done: int, _: int) -> None:
        began.set()
        assert go_on.wait(30)

    thread = Thread(target=lambda: results.append(place.back_up(on_progress=wait)))
    thread.start()
    try:
        assert began.wait(30)
        with PostgresQueue(database_url, "other") as queue:
            other = replace(place, queue=queue)
            assert other.try_to_back_up() is None
            made = replace(other, to=place.to + "-2").back_up()
    finally:
        go_on.set()
        thread.join()
    assert results[0]
    assert (results[0].state, results[0].rows, made.rows) == ("complete", ROWS, ROWS)


def test_a_worker_that_lost_its_backup_stops_and_spoils_nothing(
    docs: Database, place: Place, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(docs, place.queue)
    monkeypatch.setattr(backup_run, "REPORTED_EVERY", -1)
    made: list[MadeBackup] = []

    def lose(done: int, _: int) -> None:
        if done == 30 and not made:
            docs.execute("update embedding_backups set lease_expires_at = now() - interval '1 s'")
            with PostgresQueue(database_url, "other") as queue:
                made.append(replace(place, queue=queue).back_up())

    with pytest.raises(BackupError, match="another worker has taken over"):
        place.try_to_back_up(on_progress=lose)
    assert in_backup(place.rows_of(made[0].name)) == stored(docs)
    assert check_backup(place.storage, made[0].name).problems == ()
    assert [known.state for known in place.queue.backups()] == ["complete"]


def test_two_databases_at_one_place_are_told_apart(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    stopped = unfinished(place)
    folder = folder_of(stopped.name)
    [found] = find_backups(place.storage)
    assert found.manifest
    other = replace(found.manifest, database="7/1")
    place.storage.put_bytes(folder + PROGRESS, to_json(other))
    with pytest.raises(BackupError, match="another database has a backup"):
        place.try_to_back_up()


def test_a_backup_is_made_only_if_it_is_due(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    assert place.try_to_back_up(every=timedelta(hours=1))
    assert place.try_to_back_up(every=timedelta(hours=1)) is None
    assert place.try_to_back_up()


# Damage, and what is deleted


@contextmanager
def aged(place: Place, name: str, days: int) -> Iterator[str]:
    """A copy of a backup, begun so many days before now."""
    began = datetime.now(UTC) - timedelta(days=days)
    copy = began.strftime("%Y-%m-%dT%H-%M-%SZ")
    folder = Path(place.to)
    shutil.copytree(folder / folder_of(name), folder / folder_of(copy))
    for which in (MANIFEST, PROGRESS):
        file = folder / folder_of(copy) / which
        if file.exists():
            manifest = json.loads(file.read_text())
            file.write_text(json.dumps(manifest | {"written_at": began.isoformat()}))
    yield copy


def names(place: Place) -> list[str]:
    return [found.name for found in find_backups(place.storage)]


def test_damage_is_found_and_every_part_of_it_is_named(docs: Database, any_place: Place) -> None:
    fill(docs, any_place.queue)
    made = any_place.back_up()
    storage, folder = any_place.storage, folder_of(made.name)
    first, second, *_ = any_place.manifest(made.name).columns[0].parts
    with storage.local(folder + first.name) as path:
        content = path.read_bytes()
    storage.put_bytes(folder + first.name, content[:50] + bytes([content[50] ^ 1]) + content[51:])
    storage.delete([folder + second.name])
    assert find_backups(storage)[0].state == "damaged"
    checked = check_backup(storage, made.name)
    assert checked.problems == (
        f"{first.name} is not what was written: its SHA-256 differs",
        f"{second.name} is missing",
    )
    [found] = find_backups(storage)
    assert (found.state, found.is_restorable) == ("damaged", False)
    with pytest.raises(BackupError, match="no complete backup"):
        find_backup(storage, "latest")


def test_retention_deletes_old_ones_and_never_the_last_good_one(
    docs: Database, place: Place
) -> None:
    fill(docs, place.queue)
    made = place.back_up()
    with aged(place, made.name, 8) as eight, aged(place, made.name, 9) as nine:
        assert names(place) == [made.name, eight, nine]
        made_again = place.back_up(keep=WEEK)
        assert made_again.deleted == [nine, eight]
    with aged(place, made.name, 10) as ten, aged(place, made.name, 11):
        for new in (made.name, made_again.name):
            path = next((Path(place.to) / folder_of(new) / "parts").iterdir())
            path.write_bytes(path.read_bytes()[:-1])
            assert check_backup(place.storage, new).problems
        prune(place.storage, WEEK)
        assert names(place) == [made_again.name, made.name, ten]
        prune(place.storage, timedelta(seconds=1))
        assert ten in names(place)


def test_unfinished_backups_are_deleted_after_a_day_in_which_nothing_was_written(
    docs: Database, place: Place
) -> None:
    fill(docs, place.queue)
    running = unfinished(place)
    with aged(place, running.name, 2) as unfinished_one:
        active = Path(place.to) / folder_of("2026-01-01T00-00-00Z")
        shutil.copytree(Path(place.to) / folder_of(running.name), active)
        assert prune(place.storage, WEEK) == [unfinished_one]
    assert names(place) == [running.name, active.name]
    assert not (Path(place.to) / folder_of(unfinished_one)).exists()


def test_a_backup_of_a_later_release_is_left_alone(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    made = place.back_up()
    with aged(place, made.name, 90) as old:
        manifest = Path(place.to) / folder_of(old) / MANIFEST
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
        place.back_up(keep=WEEK)
        assert old in names(place)
        found = find_backup(place.storage, old)
        assert (found.state, "format 2" in str(found.problem)) == ("damaged", True)


def test_what_is_no_backup_is_left_alone(docs: Database, place: Place) -> None:
    fill(docs, place.queue)
    place.back_up()
    others = ["notes.txt", "daily/readme", "daily/2026-99-99T00-00-00Z/x", "daily/x/manifest.json"]
    for name in others:
        place.storage.put_bytes(name, b"x")
    place.back_up(keep=timedelta(seconds=1))
    assert set(others) <= set(place.storage.names())


# Destinations that fail


def test_a_full_disk_ends_a_backup_with_a_cure_and_what_is_there_is_kept(
    docs: Database, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(docs, place.queue)
    put = Directory.put
    disk = [2]

    def full(self: Directory, name: str, path: Path) -> None:
        disk[0] -= 1
        if disk[0] < 0:
            raise BackupError("backups: No space left on device", "Make room there.")
        put(self, name, path)

    monkeypatch.setattr(Directory, "put", full)
    with pytest.raises(BackupError, match="No space left"):
        place.try_to_back_up()
    [known] = place.queue.backups()
    assert (known.state, known.error_message) == ("failed", "backups: No space left on device")
    monkeypatch.setattr(Directory, "put", put)
    made = place.back_up()
    assert (made.name, made.kept_rows) == (known.name, known.rows)


def test_the_folder_for_temporary_files_cannot_be_used(
    docs: Database, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(docs, place.queue)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(BackupError, match="temporary files: No such file") as problem:
        place.try_to_back_up()
    assert "TMPDIR" in str(problem.value.hint)
    assert place.queue.backups()[0].state == "failed"


def test_a_bucket_that_refuses_ends_a_backup(
    docs: Database, queue: AdminQueue, s3: S3Server
) -> None:
    fill(docs, queue)
    place = Place(queue, "s3://nowhere/backups", s3.settings)
    with pytest.raises(BackupError, match="there is no such bucket"):
        place.try_to_back_up()
    assert queue.backups()[0].error_message == "there is no such bucket"
