"""How long it takes to store the chunks of a long text, and to replace its passages.

The limit of both is the same rows in tables of the same shape that nothing watches, with the same
vector index. During one more edit, another session updates the row of the text without a pause: its
longest wait is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Event

import numpy as np
import psycopg

from benchmarks.database import NARROW, Connection, Database, Server, Vectors
from benchmarks.report import Figure

CHUNKS = 5_000
AT_ONCE = 100  # chunks that are staged in one call
MODEL = "bench:model"
LENGTH = 1_000  # characters of a chunk
INDEX = "create index on {} using hnsw (embedding vector_cosine_ops)"
STAGE = "select * from stage_chunks(%s, %s, %s, %s, null, %s, %s)"
COMPLETE = (
    "select * from complete_documents(%s, %s, %s, %s, null, null, %s, %s, %s, %s, null, null)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each call, and of the same rows in tables that nothing watches."""

    staged: list[float] = field(default_factory=list)
    bare_staged: list[float] = field(default_factory=list)
    swapped: list[float] = field(default_factory=list)
    bare_swapped: list[float] = field(default_factory=list)
    waited_to_stage: list[float] = field(default_factory=list)
    waited_to_swap: list[float] = field(default_factory=list)


def storing(server: Server, chunks: int = CHUNKS, edits: int = 5) -> Iterator[Figure]:
    """Measure a text of so many chunks, and so many edits that insert a chunk at its top."""
    times = Times()
    with server.database(NARROW) as database, database.connect() as connection:
        _prepare(connection)
        pieces = [_piece(number) for number in range(chunks)]
        connection.execute("insert into books values (1, %s, 0)", ["".join(pieces)])
        _embed(connection, pieces, pieces, times)
        for edit in range(edits):
            pieces = [_piece(chunks + edit), *pieces]
            connection.execute("update books set body = %s", ["".join(pieces)])
            _embed(connection, pieces, pieces[:1], times)
        pieces = [*(_piece(chunks + edits + number) for number in range(AT_ONCE)), *pieces]
        connection.execute("update books set body = %s", ["".join(pieces)])
        _embed(connection, pieces, pieces[:AT_ONCE], times, database)
    yield Figure(
        what=f"{AT_ONCE} chunks staged, {NARROW} dimensions, HNSW",
        unit="s",
        samples=times.staged[:-1],
        limits=times.bare_staged[:-1],
        at_most=1.2,
    )
    swap = f"{chunks} places replaced after a chunk at the top, HNSW"
    yield Figure(what=swap, unit="s", samples=times.swapped[1:-1], at_most=0.5)
    yield Figure(
        what=f"{swap}, of bare tables",
        unit="s",
        samples=times.swapped[1:-1],
        limits=times.bare_swapped[1:-1],
    )
    for while_it, waits in (
        ("staged", times.waited_to_stage),
        ("replaced", times.waited_to_swap),
    ):
        longest = [max(waits)]
        yield Figure(
            what=f"longest UPDATE of its row while it is {while_it}",
            unit="s",
            samples=longest,
            at_most=0.5,
        )


def _prepare(connection: Connection) -> None:
    connection.execute(
        "create table books (id bigint primary key, body text not null, views integer not null)"
    )
    connection.execute(
        "select watch_embeddings('books', 'body', dimensions => %s, chunks => true)", [NARROW]
    )
    connection.execute("create table bare_chunks (like books_chunks including all)")
    connection.execute("create table bare_places (like books_chunk_places including all)")
    for table in ("books_chunks", "bare_chunks"):
        connection.execute(INDEX.format(table).encode())


def _embed(
    connection: Connection,
    pieces: Sequence[str],
    new: Sequence[str],
    times: Times,
    written: Database | None = None,
) -> None:
    """Do what a worker does with the text of the pieces, of which some are not stored yet.

    `written`: the database in which another session updates the row meanwhile.
    """
    [(job, lease, text_hash)] = connection.execute(
        "select id, lease, content_hash from claim_embeddings('bench', default_model => %s)"
        " where status = 'processing'",
        [MODEL],
    ).fetchall()
    for first in range(0, len(new), AT_ONCE):
        batch = new[first : first + AT_ONCE]
        hashes, vectors = [_hash(piece) for piece in batch], _vectors(batch)
        ids, leases = [job] * len(batch), [lease] * len(batch)
        with _writer(written, times.waited_to_stage):
            took = _seconds(connection, STAGE, [ids, leases, hashes, list(batch), vectors, MODEL])
        bare = _seconds(
            connection,
            "insert into bare_chunks select 1, hash, content, null, vector"
            " from unnest(%s::bytea[], %s::text[], %s::vector[]) as given (hash, content, vector)",
            [hashes, list(batch), vectors],
        )
        if len(batch) == AT_ONCE:
            times.staged.append(took)
            times.bare_staged.append(bare)
    hashes = [_hash(piece) for piece in pieces]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    starts = [0, *ends[:-1]]
    documents = [[job], [lease], [text_hash], MODEL]
    with _writer(written, times.waited_to_swap):
        times.swapped.append(
            _seconds(connection, COMPLETE, [*documents, [job] * len(pieces), hashes, starts, ends])
        )
    with connection.transaction():
        took = _seconds(connection, "delete from bare_places", [])
        took += _seconds(
            connection,
            "insert into bare_places select 1, row_number() over () - 1, hash, first, last"
            " from unnest(%s::bytea[], %s::integer[], %s::integer[]) as given (hash, first, last)",
            [hashes, starts, ends],
        )
    times.bare_swapped.append(took)


@contextmanager
def _writer(database: Database | None, waits: list[float]) -> Iterator[None]:
    """Update another column of the row in a session of its own, without a pause."""
    if database is None:
        yield
        return
    over = Event()

    def write() -> None:
        with psycopg.connect(database.url, autocommit=True) as other:
            while not over.is_set():
                began = time.perf_counter()
                other.execute("update books set views = views + 1")
                waits.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            yield
        finally:
            over.set()
            writing.result()


def _seconds(connection: Connection, statement: str, parameters: Sequence[object]) -> float:
    """Measure a call, the one that is not refused because the writer holds the row."""
    while True:
        began = time.perf_counter()
        cursor = connection.execute(statement.encode(), parameters)
        took = time.perf_counter() - began
        refused = {reason for _, reason in cursor} if cursor.description else set()
        if refused - {"locked"}:
            raise RuntimeError(f"refused: {refused}")
        if not refused:
            return took


def _piece(number: int) -> str:
    return f"Chunk {number}. ".ljust(LENGTH, "x")


def _hash(piece: str) -> bytes:
    return sha256(piece.encode()).digest()


def _vectors(pieces: Sequence[str]) -> list[Vectors]:
    random = np.random.default_rng(int(pieces[0].split(".")[0].removeprefix("Chunk ")))
    return list(random.standard_normal((len(pieces), NARROW), dtype=np.float32))
