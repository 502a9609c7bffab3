"""`worker search`."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.console import name_of, one_line, out, out_json, say
from worker.cli.process import AsJson, Column, Table
from worker.cli.session import load_settings, open_queue
from worker.embedders.registry import open_embedder
from worker.errors import ProviderRefused, SettingsError
from worker.queue import AdminQueue, Match, Target
from worker.settings import Settings


def search(
    words: Annotated[str, typer.Argument(metavar="WORDS", help="What to look for.")],
    table: Table = None,
    column: Column = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="How many rows to show.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Show the rows nearest in meaning, by cosine distance: 0 the same, 1 unrelated."""
    if not words.strip():
        raise SettingsError("there is nothing to look for", 'Give some words: worker search "…".')
    words = words.encode("utf-8", "replace").decode()  # what the terminal sent may be no text
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        matches = find(queue, settings, _only_target(queue, table, column), words, limit)
    if as_json:
        out_json([asdict(match) for match in matches])
    elif not matches:
        say("Nothing found: no row has a vector yet. `worker status` shows how far it is.")
    else:
        print_matches(matches)


def find(
    queue: AdminQueue, settings: Settings, target: Target, words: str, limit: int
) -> list[Match]:
    """Embed the words with the model of the target, and find the rows nearest to them."""
    model = target.model or settings.embedding_model
    with closing(open_embedder(model, target.dimensions, settings)) as embedder:
        embedder.probe()  # some servers answer only when asked in the way it finds out
        vector = embedder.embed([words]).vectors[0]
    if target.dimensions not in (None, len(vector)):
        raise ProviderRefused(
            f"{model} gives {len(vector)} dimensions, but {target.embedding_column} of"
            f" {target.table_name} holds {target.dimensions}",
            "Search with the model the column was embedded with: set EMBEDDING_MODEL.",
        )
    return queue.search(target, vector, limit, model)


def print_matches(matches: list[Match]) -> None:
    """A line a row: the distance, the key, and as much of the text as fits."""
    columns = shutil.get_terminal_size((120, 24)).columns
    for match in matches:
        head = f"{match.distance:.4f}  {match.record_id}  "
        out(head + one_line(match.content or "(unreadable)", max(columns - len(head), 20)))


def _only_target(queue: AdminQueue, table: str | None, column: str | None) -> Target:
    targets = queue.targets(table, column)
    if not targets:
        raise SettingsError("nothing is watched yet", "`worker watch` registers a column.")
    if len(targets) > 1:
        names = ", ".join(name_of(target) for target in targets)
        raise SettingsError(
            f"it is not said where to look: {names} are watched", "Give --table and --column."
        )
    return targets[0]
