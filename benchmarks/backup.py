"""How fast vectors are backed up and restored, how large a backup is, and what memory that takes.

The limit of a backup is a COPY in binary of the same rows, with the hashes of their texts, into a
file; that of a restore is one UPDATE of the vectors from a table. The vectors are random and of
length 1, so they hardly compress.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.database import NARROW, Connection, Database, Server, value
from benchmarks.report import Figure
from benchmarks.usage import usage
from benchmarks.verification import complete_all, seconds
from worker.operations.backup import BackupRequest, MadeBackup, make_backup
from worker.safekeeping.directory import Directory
from worker.safekeeping.inventory import folder_of, read_manifest
from worker.safekeeping.locations import parse_destination
from worker.safekeeping.parts import read_part
from worker.settings import Settings

RATE, RESTORE_RATE = 25_000, 10_000  # rows a second
MOST_MEMORY = 200  # MB
MOST_BYTES = 1_400  # of a row: 140 MB for 100,000
AT_ONCE = 1000  # rows that are written by one statement
HASH = """
do $$ begin
    execute (select format('update public.embedding_queue set vector_hash = %s from public.docs'
                           ' where record_id = docs.id::text',
                           embedding.vector_hash_sql(target, 'docs.embedding'))
               from public.embedding_targets as target);
end $$
"""
UPDATE = "update docs set embedding = kept.embedding from kept where kept.id = docs.id"
DIFFERENT = """
select count(*) from docs join kept using (id) where docs.embedding is distinct from kept.embedding
"""
COPY = """
copy (select record_id, content_hash, embedding
        from docs join embedding_queue on record_id = docs.id::text order by docs.id)
  to stdout (format binary)
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How many vectors are backed up, and how often."""

    rows: int
    repetitions: int


FULL = Size(100_000, 3)
QUICK = Size(2_000, 1)


def backup(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second, bytes on the disk, and the peak of a process of its own."""
    limits, rates, bytes_of_a_row = [], [], 0.0
    with filled(server, size.rows) as database, database.connect() as connection:
        for _ in range(size.repetitions):
            with tempfile.TemporaryDirectory(prefix="embedding-worker-", dir="/var/tmp") as folder:
                copying = partial(copy, connection, Path(folder, "copy"))
                limits.append(size.rows / seconds(copying))
                made = back_up(database, Path(folder, "backups"))
                rates.append(made.rows / made.seconds)
                bytes_of_a_row = made.bytes / made.rows
        peak = peak_of_a_backup(database)
    what = f"backup: {size.rows:,} vectors"
    yield Figure(what=what, unit="rows/s", samples=rates, at_least=RATE)
    yield Figure(what=f"{what}, against COPY", unit="rows/s", samples=rates, limits=limits)
    yield Figure(what=f"{what}, a row", unit="bytes", samples=[bytes_of_a_row], at_most=MOST_BYTES)
    yield Figure(what=f"{what}, memory", unit="MB", samples=[peak], at_most=MOST_MEMORY)


def restore(server: Server, size: Size) -> Iterator[Figure]:
    """Rows a second that come back from the parts of a backup into rows that lost their vectors."""
    limits, rates = [], []
    with (
        filled(server, size.rows) as database,
        database.connect() as connection,
        tempfile.TemporaryDirectory(prefix="embedding-worker-", dir="/var/tmp") as folder,
    ):
        place = Path(folder, "backups")
        name = back_up(database, place).name
        connection.execute("create table kept as select id, embedding from docs")
        for _ in range(size.repetitions):
            lose_vectors(database, connection)
            limits.append(size.rows / seconds(partial(connection.execute, UPDATE)))
            lose_vectors(database, connection)
            rates.append(size.rows / seconds(partial(restore_all, database, place, name)))
            check_restored(connection)
    what = f"restore: {size.rows:,} vectors"
    yield Figure(what=what, unit="rows/s", samples=rates, at_least=RESTORE_RATE)
    yield Figure(what=f"{what}, against one UPDATE", unit="rows/s", samples=rates, limits=limits)


GROUPS = {"backup": backup, "restore": restore}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Measure the figures of the chosen groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


@contextmanager
def filled(server: Server, rows: int) -> Iterator[Database]:
    """A database with so many completed rows, each with a vector of its own."""
    with server.database(NARROW) as database, database.connect() as connection:
        database.refill("docs", rows)
        complete_all(connection, rows)
        chance = np.random.default_rng(1)
        for first in range(0, rows, AT_ONCE):
            ids = range(first, min(first + AT_ONCE, rows))
            vectors = chance.standard_normal((len(ids), NARROW), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            connection.execute(
                "update docs set embedding = given.vector"
                " from unnest(%s::bigint[], %b) as given (id, vector) where docs.id = given.id",
                [list(ids), list(vectors)],
            )
        connection.execute(HASH)
        database.tidy()
        yield database


def copy(connection: Connection, file: Path) -> None:
    with connection.cursor().copy(COPY) as copying, file.open("wb") as opened:
        for piece in copying:
            opened.write(piece)


def back_up(database: Database, folder: Path) -> MadeBackup:
    with database.queue() as queue:
        made = make_backup(queue, Settings(), BackupRequest(parse_destination(str(folder))))
    if made is None or made.state != "complete":
        raise RuntimeError(f"not complete: {made}")
    return made


def peak_of_a_backup(database: Database) -> float:
    with tempfile.TemporaryDirectory(prefix="embedding-worker-") as folder:
        command = [sys.executable, "-m", "worker", "backup", "--to", folder]
        return usage(command, {"DATABASE_URL": database.url}).peak


def lose_vectors(database: Database, connection: Connection) -> None:
    """Set all vectors to null behind the queue's back."""
    connection.execute("update docs set embedding = null")
    database.tidy()


def restore_all(database: Database, folder: Path, name: str) -> None:
    """Write all rows of a backup. Raises RuntimeError if one of them is not restored."""
    storage = Directory(folder)
    with database.queue() as queue:
        for column in read_manifest(storage, name).columns:
            target = queue.target(column.table, column.column)
            for part in column.parts:
                with storage.local(folder_of(name) + part.name) as path:
                    for rows in read_part(path, part, column):
                        outcomes = {each.outcome for each in queue.restore(target, rows)}
                        if outcomes != {"restored"}:
                            raise RuntimeError(f"not restored: {outcomes}")


def check_restored(connection: Connection) -> None:
    if different := value(connection, DIFFERENT):
        raise RuntimeError(f"{different} vectors are not what they were")
