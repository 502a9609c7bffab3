"""Edits of single rows by several writers at once, on a table of which some columns are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from benchmarks.database import Database
from benchmarks.work import BATCH, WARM_UP, drain
from benchmarks.worker_processes import Processes, Take

COLUMNS = ("title", "summary", "body")
EditedTable = Literal["notes", "plain_notes"]


@dataclass(frozen=True, slots=True)
class Edit:
    """Work of the processes: edit all texts of each of the first `rows` rows, one by one."""

    database: Database
    table: EditedTable
    rows: int

    @contextmanager
    def ready(self, take: Take) -> Iterator[Callable[[], None]]:
        texts = ", ".join(f"{column} = {column} || '.'" for column in COLUMNS)
        edit = f"update {self.table} set {texts} where id = %s"
        with self.database.connect() as connection:

            def edit_all() -> None:
                while (row := take()) < self.rows:
                    connection.execute(edit, [row])

            for _ in range(WARM_UP):
                connection.execute(edit, [self.rows])
            yield edit_all


def create_tables(database: Database, rows: int) -> None:
    """Create both tables, and fill them with one row more than are edited."""
    texts = ", ".join(f"{column} text, {column}_embedding vector(3)" for column in COLUMNS)
    with database.connect() as connection:
        connection.execute(f"create table notes (id bigint primary key, {texts})")
        connection.execute("create table plain_notes (like notes including all)")
        for table in ("notes", "plain_notes"):
            connection.execute(
                f"insert into {table} (id, {', '.join(COLUMNS)})"
                " select n, texts.body, texts.body, texts.body"
                " from generate_series(0::bigint, %s) as n"
                " join texts on texts.id = n %% (select count(*) from texts)",
                [rows],
            )


def watch(database: Database, column: str) -> None:
    """Watch the column, and enqueue all rows."""
    with database.queue() as queue, database.connect() as connection:
        queue.watch("notes", column, f"{column}_embedding", dimensions=database.dimensions)
        connection.execute(f"update notes set {column} = {column} || '.'")


def edits_per_second(
    database: Database, processes: Processes, table: EditedTable, rows: int
) -> float:
    """Embed what is due, so that each edit enqueues a job, then measure the edits."""
    with database.queue() as queue:
        drain(queue, database.dimensions, BATCH)
    with database.connect() as connection:
        connection.execute("vacuum analyze notes, plain_notes, public.embedding_queue")
        connection.execute("checkpoint")
    return rows / processes.seconds(Edit(database, table, rows))
