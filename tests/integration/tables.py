"""What the integration tests share: tables to watch, and a worker whose vectors can be foretold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rows
from tests.integration.jobs import SCOPE
from worker.queue import AdminQueue, Completion, Job, Refusal

Connect = Callable[[], Database]

# -- a worker without a model


def vector_of(text: str, width: int = 3) -> list[float]:
    """The vector of a text: small whole numbers, which a halfvec holds exactly."""
    return [float(byte % 16 + 1) for byte in (sha256(text.encode()).digest() * width)[:width]]


def completions_of(jobs: Sequence[Job]) -> list[Completion]:
    """The vectors of the texts of jobs."""
    return [
        Completion(
            job, np.array(vector_of(job.content, job.dimensions or 3), dtype=np.float32), None
        )
        for job in jobs
    ]


def embed(queue: AdminQueue, jobs: Sequence[Job]) -> list[Refusal]:
    """Complete jobs with the vectors of their texts."""
    return queue.complete(jobs[0].model, completions_of(jobs))


def embed_all(queue: AdminQueue) -> list[str]:
    """Claim and complete until nothing is due. Returns the texts that were embedded, sorted."""
    texts = []
    while taken := queue.claim(SCOPE, 100):
        if taken.jobs:
            assert embed(queue, taken.jobs) == []
        texts += [job.content for job in taken.jobs]
    return sorted(texts)


def store_passages(db: Database, key: int, *passages: str) -> None:
    """Store passages of a row of `docs`, as a worker does."""
    for text in set(passages):
        db.execute(
            "insert into docs_chunks values (%s, sha256(%s), %s, null, '[1,2,3]')",
            [key, text.encode(), text],
        )
    for position, text in enumerate(passages):
        db.execute(
            "insert into docs_chunk_places (id, position, hash, first_char, last_char)"
            " values (%s, %s, sha256(%s), 0, 1)",
            [key, position, text.encode()],
        )


# -- what a test looks at


def jobs(db: Database) -> list[tuple[Any, ...]]:
    """Record and status of every job, in the order in which they came in."""
    return rows(db, "select record_id, status from embedding_queue order by id")


def parsed(vector: str | None) -> list[float] | None:
    """A vector, from its text form."""
    return None if vector is None else [float(number) for number in vector[1:-1].split(",")]


def vectors(db: Database, query: LiteralString) -> dict[Any, list[float] | None]:
    """Key and vector of each row, for a query of a key and the text of a vector."""
    return {key: parsed(vector) for key, vector in rows(db, query)}


def models(db: Database) -> list[str]:
    """The models of the vectors of `docs.embedding`."""
    return [
        model
        for (model,) in rows(
            db,
            "select distinct model from embedding_queue join docs on record_id = docs.id::text"
            " where embedding_column = 'embedding' and embedding is not null order by 1",
        )
    ]


def refusal(db: Database, statement: LiteralString) -> tuple[str, str]:
    """The sentence and the hint with which a statement is refused."""
    with pytest.raises(psycopg.Error) as problem:
        db.execute(statement)
    diagnosis = problem.value.diag
    assert diagnosis.message_primary is not None
    assert "\n" not in diagnosis.message_primary
    return diagnosis.message_primary, diagnosis.message_hint or ""


# -- tables and databases


@dataclass(frozen=True)
class Table:
    """A table of a key, a text and a vector, whatever they are called.

    Values are written into the statements: a `%` in a name would pass for a placeholder.
    """

    db: Database
    schema: str = "public"
    name: str = "docs"
    key: str = "id"
    text: str = "body"
    vector: str = "embedding"

    def create(self, key_type: LiteralString = "bigint") -> None:
        self._execute("create schema if not exists {schema}")
        self._execute(
            "create table {table} ({key} " + key_type + " primary key, {text} text, views integer)"
        )

    def watch(self, dimensions: int = 3) -> str:
        """Returns the name under which the table is watched."""
        [(name,)] = self._execute(
            "select table_name from watch_embeddings({regclass}, {text_name}, {vector_name},"
            " dimensions => {value})",
            value=dimensions,
        )
        return str(name)

    def insert(self, key: object, text: str | None) -> None:
        self._execute("insert into {table} values ({value}, {other})", value=key, other=text)

    def edit(self, key: object, text: str | None) -> None:
        self._execute("update {table} set {text} = {other} where {key} = {value}", key, text)

    def delete(self, key: object) -> None:
        self._execute("delete from {table} where {key} = {value}", key)

    def write(self, key: object, vector: str | None) -> None:
        """Write a vector by hand."""
        self._execute("update {table} set {vector} = {other} where {key} = {value}", key, vector)

    def stored(self, key: object) -> list[float] | None:
        [(vector,)] = self._execute("select {vector}::text from {table} where {key} = {value}", key)
        return parsed(vector)

    def is_kept_in_step(self, queue: AdminQueue, key: object = 1) -> None:
        """Assert that a row gets its vector, a new one with a new text, and leaves no job."""
        self.insert(key, "old text")
        assert embed_all(queue) == ["old text"]
        assert self.stored(key) == vector_of("old text")
        self.edit(key, "new text")
        assert embed_all(queue) == ["new text"]
        assert self.stored(key) == vector_of("new text")
        self.delete(key)
        assert jobs(self.db) == []

    def _execute(
        self, statement: LiteralString, value: object = None, other: object = None
    ) -> list[tuple[Any, ...]]:
        table = sql.Identifier(self.schema, self.name)
        cursor = self.db.execute(
            sql.SQL(statement).format(
                schema=sql.Identifier(self.schema),
                table=table,
                regclass=sql.Literal(table.as_string()),
                key=sql.Identifier(self.key),
                text=sql.Identifier(self.text),
                vector=sql.Identifier(self.vector),
                text_name=sql.Literal(self.text),
                vector_name=sql.Literal(self.vector),
                value=sql.Literal(value),
                other=sql.Literal(other),
            )
        )
        return cursor.fetchall() if cursor.description else []


def create_role(db: Database, role: LiteralString, options: LiteralString = "") -> None:
    """Roles belong to the whole server: one that another test left is used again."""
    db.execute(
        f"do $$ begin create role {role} {options};"
        " exception when duplicate_object then null; end $$"
    )


@contextmanager
def acting_as(db: Database, role: LiteralString) -> Iterator[Database]:
    """What is run inside runs with the rights of a role."""
    db.execute("set role " + role)
    try:
        yield db
    finally:
        db.execute("reset role")
