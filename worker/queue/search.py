"""Search: the rows that are nearest to a vector."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Match:
    """A row found by a search. Distance by cosine: 0 the same direction, 2 the opposite.

    `content` is None if the text cannot be read any more.
    """

    record_id: str
    content: str | None
    distance: float
