"""Finds the rows nearest in meaning to some words, or that contain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, Protocol

from worker.errors import SettingsError
from worker.operations.files import FILES, ids_of_files, paths_of_files
from worker.operations.queries import Embedded, QueryEmbedder
from worker.operations.session import select
from worker.queue import AdminQueue, Match, MatchFunction, Target, searched_by
from worker.settings import Settings

Mode = Literal["hybrid", "vector", "text"]
"""How to search: by vectors, by the words of the texts, or by both."""


class SearchAs(Protocol):
    """Searches by a match function, with the rights of somebody else."""

    def __call__(self, function: MatchFunction, arguments: Mapping[str, Any]) -> list[Match]: ...


def search(
    queue: AdminQueue,
    settings: Settings,
    words: str,
    *,
    table: str | None = None,
    column: str | None = None,
    limit: int = 5,
    mode: Mode | None = None,
    filter: Mapping[str, Any] | None = None,
    file: str | None = None,
    per_document: int = 1,
    search_as: SearchAs | None = None,
) -> list[Match]:
    """Return the rows that fit `words` best, best first.

    `mode`: hybrid if the column has a language, otherwise by vectors. `filter`: only rows with
    these values, like `{"tenant_id": 5, "lang": ["en", "de"]}`. `file`: only files whose paths fit
    this pattern, like `*.pdf`. In texts in chunks it finds passages, at most `per_document` of
    each text. `search_as` searches with the rights of somebody else.

    Raises SettingsError unless exactly one watched column has these names, and what its model
    raises if that cannot be called.
    """
    if file is not None:
        table = _table_of_files(table)
        filter = {**(filter or {}), "id": ids_of_files(queue, file)}
        if not filter["id"]:
            return []
    target = only_target(queue, table, column)
    mode = mode_of(target, mode)
    vector = None if mode == "text" else embed_words(settings, target, words)
    return search_target(
        queue,
        target,
        words,
        vector,
        limit=limit,
        mode=mode,
        filter=filter,
        per_document=per_document,
        search_as=search_as,
    )


def search_target(
    queue: AdminQueue,
    target: Target,
    words: str,
    vector: Embedded | None,
    *,
    limit: int,
    mode: Mode,
    filter: Mapping[str, Any] | None = None,
    per_document: int = 1,
    search_as: SearchAs | None = None,
) -> list[Match]:
    """Search a column by words, and by their vector unless the mode is `text`."""
    query = vector.vectors[0] if vector else None
    model = (target.searched_model or vector.model) if vector else None
    text = None if mode == "vector" else words.replace("\0", " ")
    if search_as is None:
        return queue.search(
            target, query, limit, model, text=text, filter=filter, per_document=per_document
        )
    arguments = {
        "query_embedding": query,
        "match_count": limit,
        "query_text": text,
        "filter": filter,
        "model": model,
        "per_document": per_document,
    }
    return search_as(_match_function(queue, target), arguments)


def mode_of(target: Target, wanted: Mode | None) -> Mode:
    """Return how to search a column. Raises SettingsError if it cannot be searched like that."""
    mode = wanted or ("hybrid" if target.language else "vector")
    if mode != "vector" and not target.language:
        raise SettingsError(
            f"column {target.embedding_column} of table {target.table_name} has no language",
            f"Run `worker watch {target.table_name} --column {target.embedding_column} --hybrid`.",
        )
    return mode


def found_paths(
    queue: AdminQueue, table: str | None, column: str | None, matches: Sequence[Match]
) -> dict[str, str]:
    """Return the paths of the files that a search of these names found, by record id.

    Empty if it searched another table.
    """
    if not matches or matches[0].first_char is None:  # only passages have a place
        return {}
    is_of_files = only_target(queue, table, column).table_name == FILES
    return paths_of_files(queue, matches) if is_of_files else {}


def _table_of_files(table: str | None) -> str:
    if table not in (None, FILES):
        raise SettingsError(
            f"--file is for files, and --table {table} has none", "Use only one of them."
        )
    return FILES


def embed_query(
    queue: AdminQueue,
    settings: Settings,
    words: str,
    *,
    table: str | None = None,
    column: str | None = None,
) -> list[float]:
    """Return the vector of `words` as a query: what the match function of a table takes.

    Raises what `search` raises.
    """
    target = only_target(queue, table, column)
    vector: list[float] = embed_words(settings, target, words).vectors[0].tolist()
    return vector


def embed_words(settings: Settings, target: Target, words: str) -> Embedded:
    """Embed words as a query, with the model and the prompt of the target."""
    with closing(QueryEmbedder(settings)) as embedder:
        return embedder.embed([words], target)


def _match_function(queue: AdminQueue, target: Target) -> MatchFunction:
    function = queue.match_function(target)
    if function is None:
        raise SettingsError(
            f"column {target.embedding_column} of table {target.table_name} has no match function,"
            " by which users search",
            f"Run `worker watch {target.table_name} --column {target.embedding_column}"
            " --match-function`.",
        )
    return function


def only_target(queue: AdminQueue, table: str | None, column: str | None) -> Target:
    """Return the target that a search of these names uses.

    Raises SettingsError if it is not exactly one.
    """
    every = select(queue, table, None).targets
    targets = searched_by(every, column) or select(queue, table, column).targets
    if not targets:
        raise SettingsError("nothing is watched yet", "`worker watch` registers a column.")
    if len(targets) > 1:
        names = ", ".join(target.named for target in targets)
        raise SettingsError(f"several columns are watched: {names}", "Give --table and --column.")
    return targets[0]
