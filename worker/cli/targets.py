"""The commands that say what is kept embedded: `watch`, `unwatch`, `targets`."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from worker.cli.console import (
    NOTHING_WATCHED,
    confirmed,
    name_of,
    one_line,
    out,
    out_json,
    out_table,
    say,
)
from worker.cli.process import AsJson
from worker.cli.session import load_settings, open_checked_database, open_queue
from worker.embedders.registry import check_model, open_embedder
from worker.errors import SettingsError
from worker.queue import Target, WatchOptions, WatchPreview
from worker.queue.functions import FUNCTIONS, arguments_of, typed
from worker.queue.postgres import PostgresQueue
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
    column: EmbeddingColumn,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="The column to embed, or an SQL expression over the row. May be given several"
            " times: the texts are joined by an empty line. Required at first.",
        ),
    ] = None,
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
    no_filter: Annotated[
        bool, typer.Option("--no-filter", help="Remove the filter of a watched column.")
    ] = False,
    create_column: Annotated[
        bool,
        typer.Option("--create-column", help="Add the vector column, as wide as the model."),
    ] = False,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="Ask the model for vectors of this width, shorter than its own."),
    ] = None,
    truncate: Annotated[
        bool | None,
        typer.Option(
            "--truncate/--no-truncate",
            help="Embed as much of the beginning of a text as the model takes"
            " (default: a text that is too long fails).",
        ),
    ] = None,
    match_function: Annotated[
        bool | None,
        typer.Option(
            "--match-function/--no-match-function",
            help="Write a function match_TABLE by which apps search the column.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before rows are embedded again.")
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print a migration to commit, and change nothing.")
    ] = False,
) -> None:
    """Keep a vector column in step with the text of its row.

    On a column that is watched already, only what is given changes.
    """
    if no_filter and filter_sql is not None:
        raise SettingsError("--filter contradicts --no-filter", "Use only one of them.")
    if model not in (None, "default"):
        check_model(model)
    settings = load_settings(asks_model=create_column and not model)
    options = WatchOptions(
        model="" if model == "default" else model,
        filter="" if no_filter else filter_sql,
        on_too_long=None if truncate is None else "truncate" if truncate else "fail",
        match_function=match_function,
    )
    wanted = _Watch(table, ", ".join(source) if source else None, column, options)
    if sql:
        _print_migration(wanted, create_column, dimensions, settings)
    else:
        _watch(wanted, create_column, dimensions, settings, yes)


@dataclass(frozen=True, slots=True)
class _Watch:
    """What is to be watched, and how."""

    table: str
    source: str | None
    column: str
    options: WatchOptions


def _watch(
    wanted: _Watch, create_column: bool, dimensions: int | None, settings: Settings, yes: bool
) -> None:
    names = wanted.table, wanted.source, wanted.column
    options = wanted.options
    with open_checked_database(settings) as queue:
        if create_column:
            before, model = _watched(queue, wanted), options.get("model")
            present = before.dimensions if before else None
            kept = before.model if before and model is None else None
            width = _width(model or kept or settings.embedding_model, dimensions, present, settings)
            options = options | WatchOptions(dimensions=width)
        preview = queue.preview_watch(*names, settings.embedding_model, **options)
        if dimensions not in (None, preview.width):
            raise SettingsError(
                f"column {wanted.column} holds {preview.width or 'any number of'} dimensions,"
                f" not {dimensions}",
                "Leave out --dimensions, or add another column with --create-column.",
            )
        _agree(preview, yes)
        target = queue.watch(*names, **options)
    out(f"Watching: {name_of(target)} <- {target.source}")
    say("hint: rows that are there already: `worker backfill`, then `worker process`")


def _watched(queue: PostgresQueue, wanted: _Watch) -> Target | None:
    """The target as it is; None: nobody watches the column."""
    name = queue.table_name(wanted.table)
    for target in queue.targets():
        if (target.table_name, target.embedding_column) == (name, wanted.column):
            return target
    return None


def _agree(preview: WatchPreview, yes: bool) -> None:
    """Show what changes. Raises SettingsError unless the person agrees to embed rows again."""
    for change in preview.changes:
        say(f"change: {printable(change)}")
    if not preview.to_embed:
        return
    rows = "1 row" if preview.to_embed == 1 else f"{preview.to_embed} rows"
    if yes:
        say(f"{rows} will be embedded again")
    elif not confirmed(f"{rows} will be embedded again. Continue?"):
        raise SettingsError(
            f"{rows} would be embedded again, so nothing was changed", "Add --yes to agree."
        )


def _width(model: str, dimensions: int | None, present: int | None, settings: Settings) -> int:
    """The width of a model's vectors; one letter is embedded if only that can tell.

    `dimensions`: the width to ask for; None: that of the column at present, if it has one. Raises
    SettingsError if the model cannot be asked for `dimensions`.
    """
    with closing(open_embedder(model, dimensions or present, settings)) as embedder:
        embedder.probe()
        assert embedder.dimensions is not None  # or it would have raised
        if dimensions not in (None, embedder.dimensions):
            raise SettingsError(
                f"{model} gives {embedder.dimensions} dimensions and cannot be asked for"
                f" {dimensions}",
                "Leave out --dimensions, or use a model that can be shortened;"
                " docs/providers.md lists some.",
            )
        return embedder.dimensions


def _print_migration(
    wanted: _Watch, create_column: bool, dimensions: int | None, settings: Settings
) -> None:
    options = wanted.options
    if create_column:
        model = options.get("model") or settings.embedding_model
        options = options | WatchOptions(dimensions=_width(model, dimensions, None, settings))
    elif dimensions:
        raise SettingsError(
            "--sql cannot compare --dimensions with a column that is there",
            "Leave out --dimensions, or add --create-column.",
        )
    out(*_migration(wanted, options).splitlines())


def _migration(wanted: _Watch, options: WatchOptions) -> str:
    """SQL that watches a column, on any search path and whatever other functions there are.

    Any terminal may show it: a character that steers one is written as an escape, or replaced.
    """
    table, column = printable(wanted.table), printable(wanted.column)
    arguments = arguments_of(
        "watch_embeddings",
        {
            "relation": _relation(wanted.table),
            "source": wanted.source,
            "embedding_column": wanted.column,
            **{name: options.get(name) for name in WatchOptions.__annotations__},
        },
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
    """A constant of SQL on one line. Raises SettingsError if a text cannot be one."""
    if value is None:
        return "null"
    text = str(value)
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
    with open_checked_database(load_settings()) as queue:
        if not queue.unwatch(table, column):
            raise SettingsError(
                f"column {column} of table {table} is not watched",
                "`worker targets` lists what is.",
            )
    out(f"Unwatched: {table}.{column}")


def targets(as_json: AsJson = False) -> None:
    """List the watched columns."""
    with open_queue(load_settings()) as queue:
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
