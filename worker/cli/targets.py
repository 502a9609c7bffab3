"""The commands that say what is kept embedded: `watch`, `unwatch`, `targets`."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.console import NOTHING_WATCHED, name_of, one_line, out, out_json, out_table, say
from worker.cli.process import AsJson
from worker.cli.session import load_settings, owner_of, queue_of
from worker.embedders import check_model, open_embedder
from worker.errors import SettingsError
from worker.queue import Target
from worker.settings import Settings
from worker.terminal import STEERING, printable

TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="The table, with its schema if it is not public.")
]
EmbeddingColumn = Annotated[
    str, typer.Option("--column", metavar="COLUMN", help="The vector column.")
]


def watch(
    table: TableArgument,
    source: Annotated[
        list[str],
        typer.Option(
            metavar="SOURCE",
            help="The column to embed, or an SQL expression over the row. May be given several"
            " times: the texts are joined by an empty line.",
        ),
    ],
    column: EmbeddingColumn,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="provider:model (default: that of its vectors, or the worker's EMBEDDING_MODEL).",
        ),
    ] = None,
    filter_sql: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="SQL",
            help="An SQL condition: embed only rows for which it is true.",
        ),
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
    settings = load_settings(asks_model=create_column and not model)
    if model:
        check_model(model)
    dimensions = _width(model or settings.embedding_model, settings) if create_column else None
    if sql:
        options = _options(model, filter_sql, dimensions, truncate, match_function)
        out(*_migration(table, ", ".join(source), column, options).splitlines())
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


def _options(
    model: str | None,
    filter_sql: str | None,
    dimensions: int | None,
    truncate: bool,
    match_function: bool,
) -> list[str]:
    options = [f"model => {_literal(model)}"] if model else []
    options += [f"filter => {_literal(filter_sql)}"] if filter_sql else []
    options += [f"dimensions => {dimensions}"] if dimensions else []
    options += ["on_too_long => 'truncate'"] if truncate else []
    options += ["match_function => true"] if match_function else []
    return options


def _migration(table: str, source: str, column: str, options: list[str]) -> str:
    """SQL that any terminal may show: what steers one is written as an escape, or replaced."""
    relation = _relation_literal(table)
    call = ",\n    ".join([relation, _literal(source), _literal(column), *options])
    return (
        f"-- Why:   {printable(column)} of {printable(table)} is kept in step with its text"
        f" (embedding-worker).\n"
        f"-- Locks: writers to {printable(table)} wait for the moment its triggers are made.\n"
        f"-- Undo:  select public.unwatch_embeddings(table_name, embedding_column)\n"
        f"--          from public.embedding_targets\n"
        f"--         where table_name = public.embedding_table_name({relation})\n"
        f"--           and embedding_column = {_literal(column)};\n"
        f"select public.watch_embeddings(\n    {call}\n);"
    )


def _relation_literal(table: str) -> str:
    """The table as a literal that reads the same on every search path."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", table):
        return _literal(f"public.{table}")
    if '"' in table or "." in table:
        return _literal(table)
    return _literal(f'public."{table}"')


def _literal(text: str) -> str:
    """A string constant of SQL on one line. Raises SettingsError if it cannot be one."""
    quoted = "'" + text.replace("'", "''") + "'"
    if text == printable(text):
        return quoted
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            "a name or text holds bytes that are not UTF-8", "Check what the terminal sent."
        ) from None
    escaped = quoted.replace("\\", r"\\")
    return "E" + STEERING.sub(lambda found: f"\\U{ord(found[0]):08X}", escaped)


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
                _model_of(target),
                target.dimensions,
            )
            for target in found
        ],
    )


def _model_of(target: Target) -> str:
    """The model of a column, and whether it is that of EMBEDDING_MODEL."""
    if target.model is None:
        return "(default)"
    return f"{target.model} (default)" if target.model_is_default else target.model
