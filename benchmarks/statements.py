"""Statements of applications, to measure on a watched and on an unwatched table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from benchmarks.database import NARROW, Connection, Database, Table, texts, write_vectors
from benchmarks.work import BATCH, drain

State = Literal["empty", "filled", "embedded"]
Run = Callable[[Connection, Table, int], None]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement over `rows` rows of a table, which is in the state `before` first.

    `at_most` is the highest allowed ratio of its durations on a watched and on a plain table.
    """

    what: str
    rows: int
    before: State
    run: Run
    at_most: float | None = None

    def milliseconds(self, database: Database, connection: Connection, table: Table) -> float:
        """Bring the table into that state, then return how long the statement takes."""
        _bring_into(self.before, database, connection, table, self.rows)
        begun = time.perf_counter()
        self.run(connection, table, self.rows)
        return (time.perf_counter() - begun) * 1000


def statements(rows: int, singles: int) -> list[Statement]:
    """Return all statements: over many rows at once, or with one transaction for each row."""
    return [
        Statement("one INSERT … SELECT", rows, "empty", insert_texts, at_most=2.8),
        Statement("one COPY", rows, "empty", partial(_copy, _copy_data(rows))),
        Statement("INSERTs of one row", singles, "empty", _insert_singly),
        Statement("one UPDATE of another column", rows, "embedded", _update_other, at_most=1.1),
        Statement(f"vectors, batches of {BATCH}", rows, "filled", write_all_vectors, at_most=1.15),
        Statement("one UPDATE of the text", rows, "embedded", _update_text, at_most=6.0),
        single_edits(singles),
        Statement("one DELETE", rows, "embedded", _delete),
    ]


def single_edits(rows: int) -> Statement:
    return Statement("UPDATEs of the text of one row", rows, "embedded", _update_text_singly)


def insert_texts(connection: Connection, table: Table, rows: int) -> None:
    connection.execute(
        f"insert into {table} (id, body) select id, body from texts where id < %s order by id",
        [rows],
    )


def write_all_vectors(connection: Connection, table: Table, rows: int) -> None:
    for first in range(0, rows, BATCH):
        ids = range(first, min(first + BATCH, rows))
        write_vectors(connection, table, ids, NARROW)


def _bring_into(
    state: State, database: Database, connection: Connection, table: Table, rows: int
) -> None:
    """Fill the table, and embed the rows; those of `docs` as in production."""
    database.empty(table)
    if state != "empty":
        database.fill(table, range(rows))
    if state == "embedded":
        if table == "docs":
            with database.queue() as queue:
                drain(queue, NARROW, BATCH)
        else:
            write_all_vectors(connection, table, rows)
            if queue_of_other := database.queues[table]:
                connection.execute(f"truncate {queue_of_other}")
        database.check_all_embedded(table)
    database.tidy()


def _copy_data(rows: int) -> str:
    return "".join(f"{row}\t{text}\n" for row, text in enumerate(texts()[:rows]))


def _copy(data: str, connection: Connection, table: Table, rows: int) -> None:
    with connection.cursor().copy(f"copy {table} (id, body) from stdin") as copying:
        copying.write(data)


def _insert_singly(connection: Connection, table: Table, rows: int) -> None:
    insert = f"insert into {table} (id, body) values (%s, %s)"
    for row, text in enumerate(texts()[:rows]):
        connection.execute(insert, [row, text])


def _update_other(connection: Connection, table: Table, rows: int) -> None:
    connection.execute(f"update {table} set views = views + 1")


def _delete(connection: Connection, table: Table, rows: int) -> None:
    connection.execute(f"delete from {table}")


def _update_text(connection: Connection, table: Table, rows: int) -> None:
    connection.execute(f"update {table} set body = body || '.'")


def _update_text_singly(connection: Connection, table: Table, rows: int) -> None:
    update = f"update {table} set body = body || '.' where id = %s"
    for row in range(rows):
        connection.execute(update, [row])
