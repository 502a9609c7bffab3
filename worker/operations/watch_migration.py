"""Writes a migration that watches a column, to commit instead of running a command."""

from __future__ import annotations

import re

from worker.errors import SettingsError
from worker.operations.watching import WatchRequest, find_width
from worker.queue import WatchOptions
from worker.queue.functions import FUNCTIONS, arguments_of, typed
from worker.settings import Settings
from worker.terminal import STEERING, printable


def watch_migration(settings: Settings, wanted: WatchRequest) -> str:
    """Return SQL that watches a column. Opens no database.

    Raises SettingsError if that needs a database, or if SQL cannot hold a text.
    """
    options = wanted.options
    if wanted.needs_width:
        model = options.get("model") or settings.embedding_model
        width = find_width(model, wanted.dimensions, None, settings)
        options = options | WatchOptions(dimensions=width)
    elif wanted.dimensions:
        raise SettingsError(
            "--sql cannot compare --dimensions with a column that is there",
            "Leave out --dimensions, or add --create-column.",
        )
    return _migration(wanted, options | WatchOptions(language=wanted.language(None)))


def _migration(wanted: WatchRequest, options: WatchOptions) -> str:
    """Write SQL that means the same on any search path, whatever other functions exist.

    It is safe to print: a character that controls a terminal is escaped or replaced.
    """
    table, column = printable(wanted.table), printable(wanted.column)
    arguments = arguments_of(
        "watch_embeddings",
        {
            "relation": _relation(wanted.table),
            "source": wanted.source,
            "embedding_column": wanted.column,
            **{name: options.get(name) for name in WatchOptions.__annotations__},
            "audit_source": "sql",
        },
    )
    types = FUNCTIONS["watch_embeddings"]
    call = ",\n    ".join(
        f"{name} => {_literal(value)}::{typed(types[name])}" for name, value in arguments.items()
    )
    relation = f"{_literal(arguments['relation'])}::{typed('regclass')}"
    name = f"public.embedding_table_name({relation})"
    comment = (
        f"Why:   {column} of {table} is kept in step with its text (embedding-worker).\n"
        f"Locks: writers to {table} wait {_until(options)}.\n"
        f"Undo:  select public.unwatch_embeddings(table_name, embedding_column)\n"
        f"         from public.embedding_targets\n"
        f"        where table_name = {name}\n"
        f"          and embedding_column = {_literal(column)};"
    )
    every_line = re.sub(r"^|(?<=[\r\n])(?!$)", "-- ", comment)  # also where a name has two
    watch = f"{every_line}\nselect public.watch_embeddings(\n    {call}\n);"
    return watch + (_index(name, wanted.column) if options.get("language") else "")


def _index(table: str, column: str) -> str:
    """Write SQL that builds the index over the words of a column. `table`: SQL for its name."""
    named = f"{table}, {_literal(column)}::{typed('text')}"
    return f"""
do language plpgsql $build$
declare
    statement {typed("text")};
begin
    for statement in select public.embedding_index_statements({named}, true) loop
        execute statement;
    end loop;
end $build$;"""


def _until(options: WatchOptions) -> str:
    if options.get("language"):
        return "until the index over its words is built"
    return "for the moment its triggers are made"


def _relation(table: str) -> str:
    """Return a name of the table that means the same on every search path."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", table):
        return f"public.{table}"
    if '"' in table or "." in table:
        return table
    return f'public."{table}"'


def _literal(value: object) -> str:
    """Return an SQL literal on one line. Raises SettingsError if a text cannot be one."""
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
