"""How fast vectors are backed up, how large a backup is, and what memory that takes.

The limit is a COPY in binary of the same rows, with the hashes of their texts, into a file. The
vectors are random and of length 1, so they hardly compress.
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

from benchmarks.database import NARROW, Connection, Database, Server
from benchmarks.report import Figure
from benchmarks.usage import usage
from benchmarks.verification import complete_all, seconds
from worker.operations.backup import BackupRequest, MadeBackup, make_backup
from worker.safekeeping.locations import parse_destination
from worker.settings import Settings

RATE = 25_000  # rows a second
MOST_MEMORY = 200  # MB
MOST_BYTES = 1_400  # of a row: 140 MB for 100,000
MB = 1e6
AT_ONCE = 1000  # rows that are written by one statement
HASH = """
do $$ begin
    execute (select format('update public.embedding_queue set vector_hash = %s from public.docs'
                           ' where record_id = docs.id::text',
                           embedding.vector_hash_sql(target, 'docs.embedding'))
               from public.embedding_targets as target);
end $$
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


GROUPS = {"backup": backup}


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
