"""`worker search`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict

from worker.cli.console import out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import AsJson, Column, RowsShown, Table, Words
from worker.cli.render.text import one_line
from worker.errors import SettingsError
from worker.operations import search as searching
from worker.operations.session import open_queue
from worker.queue import Match


def search(
    words: Words,
    table: Table = None,
    column: Column = None,
    limit: RowsShown = 5,
    as_json: AsJson = False,
) -> None:
    """Show the rows nearest in meaning, by cosine distance: 0 the same, 1 unrelated."""
    if not words.strip():
        raise SettingsError("the search text is empty", 'Give some words: worker search "…".')
    words = words.encode("utf-8", "replace").decode()  # the terminal may have sent invalid UTF-8
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        matches = searching.search(queue, settings, words, table=table, column=column, limit=limit)
    if as_json:
        out_json([asdict(match) for match in matches])
    elif not matches:
        say("Nothing found: no row has a vector yet. `worker status` shows progress.")
    else:
        print_found(matches)


def print_found(matches: Sequence[Match]) -> None:
    """Print a line for each row: the distance, the key, and as much of the text as fits."""
    columns = shutil.get_terminal_size((120, 24)).columns
    for match in matches:
        head = f"{match.distance:.4f}  {match.record_id}  "
        out(head + one_line(match.content or "(unreadable)", max(columns - len(head), 20)))
