"""Puts the rows that a search found into a better order, by a model that reads each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from worker.embedders.registry import open_reranker
from worker.queue import Match
from worker.settings import Settings

CANDIDATES = 50
"""How many rows a search should find for a reranker: the best by vectors and words."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """Rows in their new order, each with the score that it got, and what that cost in US dollars
    (None: unknown)."""

    matches: list[Match]
    cost: float | None


def rerank(settings: Settings, model: str, words: str, matches: Sequence[Match]) -> Reranking:
    """Order rows by how well they answer `words`, best first. Rows without a text come last.

    `model` is a reranker like `cohere:rerank-v4.0-fast`. Raises SettingsError if there is none of
    this name, and what it raises if it cannot be called.
    """
    with closing(open_reranker(model, settings)) as reranker:
        return Reranking(reorder(reranker.rerank, words, matches), reranker.spent)


def reorder(
    score: Callable[[str, Sequence[str]], list[float]], words: str, matches: Sequence[Match]
) -> list[Match]:
    """Return rows in the order of the scores that `score` gives to their texts, best first."""
    readable = [match for match in matches if match.content]
    rest = [match for match in matches if not match.content]
    scores = score(words, [match.content or "" for match in readable]) if readable else []
    order = sorted(range(len(readable)), key=lambda place: -scores[place])
    return [*(replace(readable[place], score=scores[place]) for place in order), *rest]
