"""Search: the rows that are nearest to a vector, or have the words of a query."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString


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


MATCH_ARGUMENTS: Mapping[LiteralString, LiteralString] = {
    "query_embedding": "vector",
    "match_count": "integer",
    "query_text": "text",
    "filter": "jsonb",
    "model": "text",
}
"""Those arguments of match functions that are given, with their types."""
CHUNKS_ARGUMENTS: Mapping[LiteralString, LiteralString] = {
    **MATCH_ARGUMENTS,
    "per_document": "integer",
}
"""The same, for texts in chunks."""


@dataclass(frozen=True, slots=True)
class MatchFunction:
    """The function by which an app searches a column, with the rights of who calls it."""

    schema_name: str
    function_name: str
    in_chunks: bool
    key_columns: list[str]
    key_types: list[str]

    @property
    def arguments(self) -> Mapping[LiteralString, LiteralString]:
        """The arguments to give, with their types."""
        return CHUNKS_ARGUMENTS if self.in_chunks else MATCH_ARGUMENTS

    def matches_of(self, rows: Sequence[Mapping[str, Any]]) -> list[Match]:
        """Return what its rows tell, which are as they are in JSON."""
        return [self._match_of(row) for row in rows]

    def _match_of(self, row: Mapping[str, Any]) -> Match:
        similarity = row["similarity"]
        places = ("page", "heading_path", "first_char", "last_char") if self.in_chunks else ()
        return Match(
            record_id=self._record_id_of(row),
            content=row["content"],
            distance=None if similarity is None else 1 - similarity,
            score=row["score"],
            vector_rank=row["vector_rank"],
            text_rank=row["text_rank"],
            **{name: row[name] for name in places},
        )

    def _record_id_of(self, row: Mapping[str, Any]) -> str:
        """The key of a row as the queue writes it: embedding.record_id_sql."""
        values = [
            _as_written(row[name], type_)
            for name, type_ in zip(self.key_columns, self.key_types, strict=True)
        ]
        if len(values) > 1:
            return json.dumps(values, ensure_ascii=False)
        [value] = values
        return value if isinstance(value, str) else json.dumps(value)


def _as_written(value: Any, type_: str) -> Any:
    """A value of a key, in JSON, as a record id has it."""
    if type_ == "timestamptz":
        at = datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None).isoformat()
        return at.rstrip("0") if "." in at else at
    if type_ == "bytea":
        return value.removeprefix("\\x")
    return value
