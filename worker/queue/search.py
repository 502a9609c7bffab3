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

    In texts in chunks a match is a passage: `content` is the passage, from character `first_char`,
    counted from 0, to before `last_char`; `page` counts from 1, None without pages; `heading_path`
    has the headings above it, like "Refunds > Deadlines".
    """

    record_id: str
    content: str | None
    distance: float | None
    score: float | None = None
    vector_rank: int | None = None
    text_rank: int | None = None
    page: int | None = None
    heading_path: str | None = None
    first_char: int | None = None
    last_char: int | None = None
