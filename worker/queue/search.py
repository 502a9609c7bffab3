"""Search: the rows that are nearest to a vector, or have the words of a query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Match:
    """A row found by a search.

    `content` is None if the text cannot be read any more. `distance` by cosine: 0 the same
    direction, 2 the opposite; None: the row has no vector yet, or the search used words only. A
    search that uses words also gives the places of the row by its vector and by its words (None:
    that part did not find it), and the `score` that was made of them.
    """

    record_id: str
    content: str | None
    distance: float | None
    score: float | None = None
    vector_rank: int | None = None
    text_rank: int | None = None
