"""The commands that say what is kept embedded: `watch`, `unwatch`, `targets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.console import NOTHING_WATCHED, name_of, one_line, out, out_json, out_table, say
from worker.cli.process import AsJson
from worker.cli.session import load_settings, owner_of, queue_of
from worker.embedders import check_model, open_embedder
from worker.errors import SettingsError
from worker.queue.functions import FUNCTIONS, arguments_of, typed
from worker.settings import Settings

TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="The table, with its schema if it is not public.")
]
EmbeddingColumn = Annotated[str, typer.Option("--column", help="The vector column.")]


def watch(
    table: TableArgument,
    source: Annotated[
        list[str],
        typer.Option(
            help="The column to embed, or an SQL expression over the row; given several times,"
            " the columns are joined by an empty line."
        ),
    ],
    column: EmbeddingColumn,
    model: Annotated[
        str | None,
        typer.Option(help="provider:model (default: whatever EMBEDDING_MODEL the worker has)."),
    ] = None,
    filter_sql: Annotated[
        str | None,
        typer.Option("--filter", help="SQL over the row: only rows for which it is true."),
    ] = None,
    create_column: Annotated[
        bool,
        typer.Option("--create-column", help="Add the vector column, as wide as the model."),
    ] = False,
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate",
            help="Embed as much of the beginning of a text as the model takes"
            " (default: a text that is too long fails).",
        ),
    ] = False,
    match_function: Annotated[
        bool,
        typer.Option(
            "--match-function",
            help="Write a function match_TABLE by which apps search the column.",
        ),
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print a migration to commit, and change nothing.")
    ] = False,
) -> None:
    """Keep a vector column in step with the text of its row."""
    settings = load_settings()
    if model:
        check_model(model)
    dimensions = _width(model or settings.embedding_model, settings) if create_column else None
    if sql:
        options = {
            "model": model,
            "filter": filter_sql,
            "dimensions": dimensions,
            "on_too_long": "truncate" if truncate else "fail",
            "match_function": "true" if match_function else None,
        }
        out(_migration(table, ", ".join(source), column, options))
        return
    with owner_of(settings) as queue:
        target = queue.watch(
            table,
            ", ".join(source),
            column,
            model=model,
            filter=filter_sql,
            dimensions=dimensions,
            truncate=truncate,
            match_function=match_function or None,
        )
    out(f"Watching: {name_of(target)} <- {target.source}")
    say("hint: rows that are there already: `worker backfill`, then `worker process`")


def _width(model: str, settings: Settings) -> int:
    """How wide the vectors of a model are; one letter is embedded if only that can tell."""
    with closing(open_embedder(model, None, settings)) as embedder:
        embedder.introduce()
        assert embedder.dimensions is not None  # or it would have raised
        return embedder.dimensions


def _migration(table: str, source: str, column: str, options: Mapping[str, object]) -> str:
    """SQL that watches a column, on any search path and whatever other functions there are."""
    arguments = arguments_of(
        "watch_embeddings",
        {"relation": _relation(table), "source": source, "embedding_column": column, **options},
    )
    types = FUNCTIONS["watch_embeddings"]
    call = ",\n    ".join(
        f"{name} => {_literal(value)}::{typed(types[name])}" for name, value in arguments.items()
    )
    relation = f"{_literal(arguments['relation'])}::{typed('regclass')}"
    comment = (
        f"Why:   {column} of {table} is kept in step with its text (embedding-worker).\n"
        f"Locks: writers to {table} wait for the moment its triggers are made.\n"
        f"Undo:  select public.unwatch_embeddings(table_name, embedding_column)\n"
        f"         from public.embedding_targets\n"
        f"        where table_name = public.embedding_table_name({relation})\n"
        f"          and embedding_column = {_literal(column)};"
    )
    every_line = re.sub(r"^|(?<=[\r\n])(?!$)", "-- ", comment)  # also where a name has two
    return f"{every_line}\nselect public.watch_embeddings(\n    {call}\n);"


def _relation(table: str) -> str:
    """The table, by a name that reads the same on every search path."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", table):
        return f"public.{table}"
    if '"' in table or "." in table:
        return table
    return f'public."{table}"'


def _literal(value: object) -> str:
    if value is None:
        return "null"
    return "'" + str(value).replace("'", "''") + "'"


def unwatch(table: TableArgument, column: EmbeddingColumn) -> None:
    """Stop keeping a column in step. Its vectors stay."""
    with owner_of(load_settings()) as queue:
        if not queue.unwatch(table, column):
            raise SettingsError(
                f"column {column} of table {table} is not watched",
                "`worker targets` lists what is.",
            )
    out(f"Unwatched: {table}.{column}")


def targets(as_json: AsJson = False) -> None:
    """List the watched columns."""
    with queue_of(load_settings()) as queue:
        found = queue.targets()
    if as_json:
        out_json([asdict(target) for target in found])
        return
    if not found:
        say(NOTHING_WATCHED)
        return
    out_table(
        ["table", "column", "source", "filter", "model", "width"],
        [
            (
                target.table_name,
                target.embedding_column,
                one_line(target.source, 40),
                target.filter and one_line(target.filter, 30),
                target.model or "(default)",
                target.dimensions,
            )
            for target in found
        ],
    )
