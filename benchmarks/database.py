"""A Postgres with default settings, on disk, whose databases have tables of texts.

`docs` is watched and `plain` is not; `vectorized` is a vectorizer's of pgai, if there is one
(`benchmarks/pgai.py`). Otherwise they are equal.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, LiteralString
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg.types import TypeInfo

from benchmarks.tcp import listening_on_tcp
from worker.database.embedded import embedded_postgres
from worker.database.migrations import migrations, seed
from worker.queue.postgres import PostgresQueue

NARROW, WIDE = 384, 1536  # dimensions
TEXTS = 20_000
LENGTH = 200  # characters of a text
FILLED_AT_ONCE = 100_000  # rows in one statement

Table = Literal["docs", "plain", "vectorized"]
PGVECTOR = "select default_version from pg_available_extensions where name = 'vector'"
QUEUES: Mapping[Table, str | None] = {"docs": "public.embedding_queue", "plain": None}
Connection = psycopg.Connection[TupleRow]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database with `docs` and `plain`, whose vectors have `dimensions`."""

    url: str
    dimensions: int
    queues: Mapping[Table, str | None] = field(default_factory=lambda: QUEUES)
    """The tables, and where the jobs of each are."""

    def queue(self) -> PostgresQueue:
        return PostgresQueue(self.url, "benchmark")

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection in autocommit mode that sends vectors in binary format."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            register_vector_info(connection, TypeInfo.fetch(connection, "vector"))
            yield connection

    def create_tables(self) -> None:
        """Create both tables, and a table of texts to fill them from."""
        with self.queue() as queue, psycopg.connect(self.url, autocommit=True) as connection:
            for migration in migrations():
                queue.apply(migration)
            for table in ("docs", "plain"):
                connection.execute(
                    f"create table {table} (id bigint primary key, body text not null,"
                    f" views integer not null default 0, embedding vector({self.dimensions}))"
                )
            queue.watch("docs", "body", "embedding", dimensions=self.dimensions)
            connection.execute("create table texts (id bigint primary key, body text not null)")
            with connection.cursor().copy("copy texts from stdin") as copying:
                for row in enumerate(texts()):
                    copying.write_row(row)
            connection.execute("vacuum analyze texts")

    def empty(self, table: Table) -> None:
        """Remove all rows and all jobs."""
        queue = self.queues[table]
        with self.connect() as connection:
            connection.execute(f"truncate {table}" + (f", {queue}" if queue else ""))
            # So that the server makes no checkpoint during the measurement.
            connection.execute("checkpoint")

    def fill(self, table: Table, ids: range) -> None:
        """Insert rows (the watched table enqueues them), then vacuum."""
        insert = (
            f"insert into {table} (id, body) select n, n || ' ' || body"
            " from generate_series(%s::bigint, %s) as n"
            " join texts on texts.id = n %% (select count(*) from texts) order by n"
        )
        with self.connect() as connection:
            for first in ids[::FILLED_AT_ONCE]:
                connection.execute(insert, [first, min(first + FILLED_AT_ONCE, ids.stop) - 1])
        self.tidy()

    def refill(self, table: Table, rows: int) -> None:
        """Empty the table, then insert `rows` rows with ids from 0."""
        self.empty(table)
        self.fill(table, range(rows))

    def tidy(self) -> None:
        """Vacuum now instead of waiting for autovacuum."""
        tables = [*self.queues, *filter(None, self.queues.values())]
        with self.connect() as connection:
            connection.execute(f"vacuum analyze {', '.join(tables)}")

    def check_all_embedded(self, table: Table) -> None:
        """Raise RuntimeError unless every row has its vector and, if watched, its job completed."""
        with self.connect() as connection, self.queue() as queue:
            rows = value(connection, f"select count(*) from {table}")
            embedded = value(connection, f"select count(embedding) from {table}")
            completed = queue.status()[0].completed if table == "docs" else rows
        if {rows, embedded, completed} != {rows}:
            raise RuntimeError(f"{table}: {rows} rows, {embedded} embedded, {completed} completed")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, over its socket and over TCP."""

    url: str
    tcp_url: str

    @contextmanager
    def database(
        self, dimensions: int, prepare: Callable[[str], None] = lambda url: None
    ) -> Iterator[Database]:
        """Create a database, and drop it at the end of the context.

        `prepare` gets its URL before the migrations are applied.
        """
        name = f"benchmark_{uuid4().hex[:12]}"
        identifier = sql.Identifier(name)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(identifier))
            database = Database(_with_name(self.url, name), dimensions)
            prepare(database.url)
            database.create_tables()
            yield database
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier))

    def settings(self) -> dict[str, str]:
        """Return the versions, and the settings that affect performance."""
        names = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
        with psycopg.connect(self.url) as connection:
            settings = {
                name: str(value(connection, "select current_setting(%s)", name)) for name in names
            }
            return settings | {"pgvector": str(value(connection, PGVECTOR))}

    def over_tcp(self, database: Database) -> Database:
        """Return the same database, connected to over TCP."""
        name = str(conninfo_to_dict(database.url)["dbname"])
        return replace(database, url=_with_name(self.tcp_url, name))


def _with_name(url: str, database: str) -> str:
    head, _, query = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


@contextmanager
def server() -> Iterator[Server]:
    """Run an embedded server with its default configuration and its data on disk."""
    # Unlike /tmp, this folder survives a restart of the machine, so it is never in memory.
    on_disk = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="embedding-worker-", dir=on_disk) as folder,
        embedded_postgres(Path(folder)) as url,
        listening_on_tcp(url) as urls,
    ):
        yield Server(*urls)


@cache
def texts() -> list[str]:
    """Return different texts from words of the sample data, the same in every run."""
    words = re.findall(r"[A-Za-z]+", seed())
    choice = random.Random(1)
    return [" ".join(choice.choices(words, k=LENGTH // 4))[:LENGTH] for _ in range(TEXTS)]


@cache
def some_vectors(dimensions: int) -> Vectors:
    """Return a thousand unit vectors, the same in every process. Row n has vector n modulo 1000."""
    vectors = np.random.default_rng(1).standard_normal((1000, dimensions), dtype=np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def write_vectors(
    connection: Connection, table: Table, ids: Sequence[int], dimensions: int
) -> None:
    """Write the vectors of these rows, in the fastest way for a client."""
    vectors = some_vectors(dimensions)
    connection.execute(
        f"update {table} set embedding = given.vector"
        # %b: text format takes sixty times as long
        f" from unnest(%s::bigint[], %b) as given (id, vector) where {table}.id = given.id",
        [list(ids), [vectors[row % len(vectors)] for row in ids]],
    )


def value(connection: Connection, query: LiteralString, *parameters: Any) -> Any:
    """Return the only value of the only row."""
    row = connection.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]
