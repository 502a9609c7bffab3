"""`worker search`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from worker.cli.console import out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AsJson,
    ByBoth,
    ByVectors,
    ByWords,
    Column,
    Explain,
    FilePattern,
    PassagesPerDocument,
    RerankedBy,
    RowsShown,
    Table,
    Words,
)
from worker.cli.render.text import one_line
from worker.embedders.base import well_formed
from worker.errors import SettingsError
from worker.figures import counted, dollars
from worker.operations import reranking
from worker.operations import search as searching
from worker.operations.files import FILES
from worker.operations.reranking import CANDIDATES
from worker.operations.session import open_queue
from worker.queue import Match
from worker.settings import Settings

NO_VECTORS = "Nothing found: no row has a vector yet. `worker status` shows progress."
NO_PATHS: Mapping[str, str] = {}
LONGEST_KEY = 60  # cells
HEADING = re.compile(r"\A\s*+#++ [^\n]*+\n(?=.*\S)", re.DOTALL)
NO_FILES = "Nothing found: no such file is searchable yet. `worker files list` shows their states."
NO_WORDS = "Nothing found: no text has one of these words."


def search(
    words: Words,
    table: Table = None,
    column: Column = None,
    file: FilePattern = None,
    limit: RowsShown = 5,
    hybrid: ByBoth = False,
    vector: ByVectors = False,
    text: ByWords = False,
    explain: Explain = False,
    rerank: RerankedBy = None,
    per_document: PassagesPerDocument = 1,
    as_json: AsJson = False,
) -> None:
    """Show the rows nearest in meaning, with their cosine distance: 0 the same, 1 unrelated.

    A column with a language (`worker watch --hybrid`) is also searched for the words themselves.
    """
    words = _checked(words)
    mode = _mode(hybrid, vector, text)
    settings = load_settings(asks_model=mode != "text")
    with open_queue(settings) as queue:
        matches = searching.search(
            queue,
            settings,
            words,
            table=table,
            column=column,
            limit=max(limit, CANDIDATES) if rerank is not None else limit,
            mode=mode,
            file=file,
            per_document=per_document,
        )
        paths = searching.found_paths(queue, FILES if file else table, column, matches)
    if rerank is not None:
        matches = _reranked(settings, rerank, words, matches)[:limit]
    nothing = NO_FILES if file else NO_WORDS if mode == "text" else NO_VECTORS
    _print(matches, paths, explain, as_json, nothing)


def _print(
    matches: Sequence[Match], paths: Mapping[str, str], explain: bool, as_json: bool, nothing: str
) -> None:
    """Print what was found. `nothing`: what to say if that is nothing."""
    if as_json:
        out_json([asdict(match) | {"path": paths.get(match.record_id)} for match in matches])
    elif matches:
        print_found(matches, explain, paths)
    else:
        say(nothing)


def _checked(words: str) -> str:
    if not words.strip():
        raise SettingsError("the search text is empty", 'Give some words: worker search "…".')
    return well_formed(words)  # the terminal may have sent invalid UTF-8


def _reranked(settings: Settings, model: str, words: str, matches: Sequence[Match]) -> list[Match]:
    found = reranking.rerank(settings, model, words, matches)
    if matches:
        say(f"{model} read {counted(len(matches), 'row')}. Cost: {dollars(found.cost)}")
    return found.matches


def _mode(hybrid: bool, vector: bool, text: bool) -> searching.Mode | None:
    if hybrid + vector + text > 1:
        raise SettingsError(
            "--hybrid, --vector and --text contradict each other", "Use only one of them."
        )
    return "hybrid" if hybrid else "vector" if vector else "text" if text else None


def print_found(
    matches: Sequence[Match], explain: bool = False, paths: Mapping[str, str] = NO_PATHS
) -> None:
    """Print a line for each row: the distance, the key, and its text or passage as it fits.

    `explain`: before these, the score, and the places by vector and by words that it is made of.
    A row that has a path in `paths` is a file, and has that instead of the key.
    """
    columns = shutil.get_terminal_size((120, 24)).columns
    if explain:
        out("score   vector  words  distance")
    for match in matches:
        key = one_line(paths.get(match.record_id, match.record_id), LONGEST_KEY)
        head = f"{_figure(match.distance)}  {key}  "
        if explain:
            places = f"{_place(match.vector_rank):>6}  {_place(match.text_rank):>5}"
            head = f"{_figure(match.score)}  {places}  {head}"
        head += _place_in_text(match)
        out(head + one_line(_shown(match) or "(unreadable)", max(columns - len(head), 20)))


def _shown(match: Match) -> str | None:
    """The text of a match, without a heading of Markdown that is shown as its place."""
    if not (match.content and match.heading_path):
        return match.content
    return HEADING.sub("", match.content)


def _place_in_text(match: Match) -> str:
    """Where a passage is in its text: its page and its headings, if it has any."""
    page = f"page {match.page}" if match.page else ""
    headings = one_line(match.heading_path, 40) if match.heading_path else ""
    places = ", ".join(filter(None, [page, headings]))
    return f"[{places}] " if places else ""


def _figure(number: float | None) -> str:
    return "-     " if number is None else f"{number:.4f}"


def _place(rank: int | None) -> str:
    return "-" if rank is None else str(rank)
