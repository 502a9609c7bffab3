"""Searches of a column, to see whether its vectors mean something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from worker.errors import WorkerError
from worker.operations.audit import record_revealed
from worker.operations.queries import Embedded
from worker.operations.reembed import find_column
from worker.operations.search import Mode, found_paths, mode_of, search_target
from worker.queue import Match, Target
from worker.web.screens.base import (
    Action,
    Look,
    Revealed,
    Screen,
    names_of_columns,
    waiting_for_a_model,
)

PATH = "/search"
HITS = 20
MODES: tuple[Mode, ...] = get_args(Mode)


def load(look: Look) -> Mapping[str, Any]:
    """Search, if there are words to search for. The texts of the hits are hidden."""
    target, hits, problem = _found(look)
    return _context(look, target, hits, problem)


def _reveal(look: Look) -> Revealed:
    """Search again, and show the texts of the hits; the audit says so."""
    target, hits, problem = _found(look)
    if target and hits:
        record_revealed(look.queue, target, [hit.record_id for hit in hits], look.source)
    return Revealed(_context(look, target, hits, problem, is_revealed=True))


Found = tuple[Target | None, list[Match], WorkerError | None]


def _found(look: Look) -> Found:
    """Return the column that is searched, the hits, and why there are none."""
    words = look.values.get("q", "").replace("\0", " ").strip()
    if not words:
        return None, [], None
    try:
        target = find_column(look.queue, look.values.get("column", ""))
        mode = mode_of(target, look.choice("mode", MODES))
        vector = None if mode == "text" else _embedded(look, target, words)
        hits = search_target(look.queue, target, words, vector, limit=HITS, mode=mode)
    except WorkerError as error:
        return None, [], error
    return target, hits, None


def _embedded(look: Look, target: Target, words: str) -> Embedded:
    with waiting_for_a_model():
        return look.services.queries.embed([words], target)


def _context(
    look: Look,
    target: Target | None,
    hits: list[Match],
    problem: WorkerError | None,
    *,
    is_revealed: bool = False,
) -> Mapping[str, Any]:
    paths = found_paths(look.queue, target.table_name, target.named_column, hits) if target else {}
    return {
        "columns": names_of_columns(look.queue),
        "modes": MODES,
        "given": {name: look.values.get(name, "") for name in ("q", "column", "mode")},
        "target": target,
        "hits": hits,
        "paths": paths,
        "problem": problem,
        "is_revealed": is_revealed,
    }


SEARCH = Screen(
    name="search",
    path=PATH,
    title="Search",
    label="Search",
    load=load,
    actions=(Action("/search/reveal", _reveal),),
    is_live=False,
)
