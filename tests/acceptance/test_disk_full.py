"""The disk of the database fills up in the middle of a run, and somebody makes room."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.conftest import Held, Start, statuses
from tests.conftest import Database, Server, value


@pytest.fixture
def small_disk(server: Server) -> Iterator[Path]:
    """A disk of 16 MB that belongs to the server. Needs the right to mount one."""
    with psycopg.connect(server.url) as connection:
        data = Path(value(connection, "select current_setting('data_directory')"))
    folder = Path(tempfile.mkdtemp(prefix="embedding-worker-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("a disk of a given size can only be had by mounting one")
    try:
        shutil.chown(folder, data.owner(), data.group())
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def notes_on_it(db: Database, small_disk: Path) -> Iterator[Database]:
    """Rows that are watched, and beside them one file that takes all the room there is."""
    name = sql.Identifier("small_" + small_disk.name.replace("-", "_"))
    db.execute(sql.SQL("create tablespace {} location {}").format(name, str(small_disk)))
    try:
        db.execute(
            sql.SQL("create table notes (id bigint primary key, body text) tablespace {}").format(
                name
            )
        )
        db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 8)")
        # so long that a page holds four of them, and each new version needs room
        db.execute(
            "insert into notes select i, repeat(i || ' ', 600) from generate_series(1, 60) i"
        )
        yield db
    finally:
        db.execute("drop table notes")
        db.execute(sql.SQL("drop tablespace {}").format(name))


def test_a_full_disk_is_waited_for(
    notes_on_it: Database,
    small_disk: Path,
    start: Start,
    with_openai: dict[str, str],
    held: Held,
) -> None:
    process = start("process", **with_openai)
    assert held.arrived.wait(30)
    ballast = small_disk / "ballast"
    fill_up(ballast)
    held.let_go.set()
    assert process.stderr is not None
    told = process.stderr.readline()
    assert told.startswith("waiting for the database: ")
    assert "No space left on device" in told
    ballast.unlink()
    stdout, stderr = process.communicate(timeout=60)
    assert stderr.startswith("the database is back after ")
    assert process.returncode == 0, stderr
    assert "Total records processed: 60" in stdout
    assert statuses(notes_on_it) == {"completed": 60}


def fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:  # no room for that much
                continue
