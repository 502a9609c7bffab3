"""Documents in chunks: what a worker stores for them, and the same rows by COPY.

`manuals` is watched in chunks. `bare_chunks` and `bare_places` have the columns and the indexes of
its side tables, and no foreign keys.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from threading import Event, Thread

from benchmarks.database import Connection, Database, some_vectors, value
from benchmarks.usage import usage
from benchmarks.work import BATCH, LOCKED_PAUSE, LOCKED_TRIES, MODEL, claim
from tests.documents import document, sentence, text_of
from worker.chunking.documents import split_document
from worker.embedders.local import LocalEmbedder
from worker.engine.documents import Document
from worker.engine.heartbeat import Leases
from worker.engine.progress import RunStats
from worker.engine.splitting import estimate_tokens
from worker.engine.writing import Writer
from worker.queue import Chunking, Completion
from worker.queue.postgres import PostgresQueue

CHARACTERS_A_CHUNK = 820  # about, of manuals
CHUNKS = "id, hash, content, context, embedding"
CHUNK_TYPES = ["int8", "bytea", "text", "text", "vector"]
PLACES = "id, position, hash, first_char, last_char, page, heading_path"
PLACE_TYPES = ["int8", "int4", "bytea", "int4", "int4", "int4", "text"]
WRITER_PAUSE = 0.001  # seconds between two edits of a row

Rows = list[tuple[object, ...]]


def manual(chunks: int, seed: int) -> str:
    """Return a text of about so many chunks, unlike those of other seeds."""
    return text_of("Markdown", document("Markdown", chunks * CHARACTERS_A_CHUNK, seed))


def create_tables(database: Database) -> None:
    with database.queue() as queue, database.connect() as connection:
        connection.execute(
            "create table manuals (id bigint primary key, body text not null,"
            " views integer not null default 0)"
        )
        queue.watch("manuals", "body", "embedding", dimensions=database.dimensions, chunks=True)
        connection.execute("create table bare_chunks (like manuals_chunks including indexes)")
        connection.execute("create table bare_places (like manuals_chunk_places including indexes)")


def insert(connection: Connection, texts: Sequence[str]) -> None:
    """Replace all manuals, which enqueues them."""
    connection.execute("truncate manuals, manuals_chunks, manuals_chunk_places, embedding_queue")
    connection.execute("truncate bare_chunks, bare_places")
    connection.cursor().executemany(
        "insert into manuals (id, body) values (%s, %s)", list(enumerate(texts))
    )
    connection.execute("vacuum analyze manuals, manuals_chunks, manuals_chunk_places")
    connection.execute("checkpoint")


def claimed(queue: PostgresQueue) -> list[Document]:
    """Claim and split all manuals that are due."""
    documents = []
    while jobs := claim(queue, BATCH):
        for job in jobs:
            assert job.chunking is not None
            split = split_document(job.content, job.chunking, estimate_tokens)
            documents.append(Document(job, split, MODEL, is_trial=False))
    return documents


# -- storing


@dataclass(frozen=True, slots=True)
class Stored:
    """How many chunks documents have, and how many seconds it took to store them with places."""

    chunks: int
    seconds: float
    copying: float
    """Seconds to copy the same rows into the bare tables."""


def store(database: Database, texts: Sequence[str]) -> Stored:
    with database.queue() as queue, database.connect() as connection:
        insert(connection, texts)
        seconds = seconds_to_store(queue, claimed(queue), database.dimensions)
        chunks, places = stored_rows(connection)
        return Stored(len(chunks), seconds, seconds_to_copy(connection, chunks, places))


def seconds_to_store(queue: PostgresQueue, documents: list[Document], dimensions: int) -> float:
    """Stage the chunks of documents as answers of a model bring them, and complete the documents
    whose chunks are all stored. Raises RuntimeError unless all are completed."""
    stats = RunStats()
    writer = Writer(queue, Leases(), stats, Event())
    parts = list(_of_one_answer(documents))
    began = time.perf_counter()
    for part in parts:
        stage(writer, part, dimensions)
        writer.complete_documents(MODEL, [document.completion for document in part])
    seconds = time.perf_counter() - began
    if stats.completed != len(documents):
        raise RuntimeError(f"{stats.completed} of {len(documents)} documents were completed")
    return seconds


def stage(writer: Writer, documents: Sequence[Document], dimensions: int) -> int:
    """Store vectors of all chunks that have none, and return how many."""
    vectors = some_vectors(dimensions)
    chunks = [
        chunk
        for document in documents
        for chunk in document.take(len(document.waiting), sys.maxsize)
    ]
    for first in range(0, len(chunks), BATCH):
        answer = chunks[first : first + BATCH]
        done = [Completion(each, vectors[each.content_hash[0]], None) for each in answer]
        if refused := writer.stage(MODEL, done):
            raise RuntimeError(f"chunks were refused: {refused}")
    return len(chunks)


def _of_one_answer(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Yield parts of documents whose chunks fit in one request; larger ones are alone."""
    part: list[Document] = []
    chunks = 0
    for each in documents:
        if part and chunks + len(each.waiting) > BATCH:
            yield part
            part, chunks = [], 0
        part.append(each)
        chunks += len(each.waiting)
    yield part


def stored_rows(connection: Connection) -> tuple[Rows, Rows]:
    """Return the rows of the side tables: the chunks and the places."""
    chunks = connection.execute(f"select {CHUNKS} from manuals_chunks", binary=True)
    places = connection.execute(f"select {PLACES} from manuals_chunk_places", binary=True)
    return chunks.fetchall(), places.fetchall()


def seconds_to_copy(connection: Connection, chunks: Rows, places: Rows) -> float:
    """Copy the same rows into bare tables."""
    began = time.perf_counter()
    copy(connection, f"bare_chunks ({CHUNKS})", CHUNK_TYPES, chunks)
    copy(connection, f"bare_places ({PLACES})", PLACE_TYPES, places)
    return time.perf_counter() - began


def copy(connection: Connection, table: str, types: Sequence[str], rows: Rows) -> None:
    with connection.cursor().copy(f"copy {table} from stdin (format binary)") as copying:
        copying.set_types(types)
        for row in rows:
            copying.write_row(row)


# -- swap


@dataclass(slots=True)
class Swap:
    """A sentence is inserted at the top of a document, and its passages are replaced."""

    milliseconds: float
    """How long complete_documents takes."""
    longest_wait: float
    """The longest time, in milliseconds, of an edit of its row meanwhile."""
    new: int
    """Chunks that are embedded."""
    bare: float
    """How long it takes to replace the same places in a bare table, by DELETE and COPY."""


def swap(database: Database, seed: int) -> Swap:
    with database.queue() as queue, database.connect() as connection:
        top = sentence(Random(seed))
        connection.execute("update manuals set body = %s || ' ' || body", [top])
        [changed] = claimed(queue)
        new = stage(Writer(queue, Leases(), RunStats(), Event()), [changed], database.dimensions)
        with edits_of_the_row(database) as waits:
            milliseconds = complete(queue, changed)
        return Swap(milliseconds, max(waits), new, milliseconds_to_replace(connection))


def milliseconds_to_replace(connection: Connection) -> float:
    """Replace the places in the bare table by those that are stored."""
    _, places = stored_rows(connection)
    began = time.perf_counter()
    with connection.transaction():
        connection.execute("delete from bare_places")
        copy(connection, f"bare_places ({PLACES})", PLACE_TYPES, places)
    return (time.perf_counter() - began) * 1000


def complete(queue: PostgresQueue, changed: Document) -> float:
    """Complete a document, and return how many milliseconds the call took that did it.

    Raises RuntimeError if its row stays locked, or if it is refused.
    """
    reasons = set()
    for _ in range(LOCKED_TRIES):
        began = time.perf_counter()
        refused = queue.complete_documents(MODEL, [changed.completion])
        if not refused:
            return (time.perf_counter() - began) * 1000
        reasons.add(refused[0].reason)
        time.sleep(LOCKED_PAUSE)
    raise RuntimeError(f"the document was refused: {reasons}")


@contextmanager
def edits_of_the_row(database: Database) -> Iterator[list[float]]:
    """Edit another column of the row again and again in another thread. Yields the milliseconds
    of each edit."""
    waits: list[float] = []
    begun, ended = Event(), Event()

    def edit() -> None:
        with database.connect() as connection:
            while not ended.wait(WRITER_PAUSE):
                began = time.perf_counter()
                connection.execute("update manuals set views = views + 1")
                waits.append((time.perf_counter() - began) * 1000)
                begun.set()

    writer = Thread(target=edit)
    writer.start()
    begun.wait()
    try:
        yield waits
    finally:
        ended.set()
        writer.join()


def index_vectors(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(
            "create index on manuals_chunks using hnsw (embedding vector_cosine_ops)"
        )


# -- whole


@dataclass(frozen=True, slots=True)
class Run:
    """The peak memory of a process that embeds a long text, in MB, and its seconds."""

    peak: float
    seconds: float


def run_worker(database: Database, megabytes: int) -> Run:
    """Embed a text with `worker process`. Raises RuntimeError unless all of it has vectors."""
    text = long_text(megabytes)
    with database.connect() as connection:
        insert(connection, [text])
        run = _run(["-m", "worker", "process"], {"DATABASE_URL": database.url})
        placed = value(connection, "select max(last_char) from manuals_chunk_places")
    if placed != len(text):
        raise RuntimeError(f"{placed} of {len(text)} characters have vectors")
    return run


def run_alone(megabytes: int) -> Run:
    """Embed the same text without a database."""
    return _run(["-m", "benchmarks.documents", str(megabytes)], {})


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> Run:
    began = time.perf_counter()
    used = usage([sys.executable, *arguments], environment)
    return Run(used.peak, time.perf_counter() - began)


def embed_alone(megabytes: int) -> None:
    """Split a text and embed its chunks with the local model, without a database."""
    embedder = LocalEmbedder()
    chunking = Chunking("markdown", 1250, "characters", 20_000)
    split = split_document(long_text(megabytes), chunking, estimate_tokens)
    for first in range(0, len(split.places), BATCH):
        chunks = [split.chunk_at(place) for place in split.places[first : first + BATCH]]
        embedder.embed([(chunk.context or "") + chunk.content for chunk in chunks], "document")


def long_text(megabytes: int) -> str:
    return manual(megabytes * 1_000_000 // CHARACTERS_A_CHUNK, megabytes)[: megabytes * 1_000_000]


if __name__ == "__main__":
    embed_alone(int(sys.argv[1]))
