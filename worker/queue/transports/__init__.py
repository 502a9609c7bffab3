"""Transports to the SQL API. They call functions and read views, without knowing which exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, LiteralString, Protocol, get_type_hints

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Row = dict[str, Any]
Columns = Mapping[str, Any]
"""The names of the columns to read, each with the type that its values are to have in Python."""

MOST_ROWS = 1000
"""The most rows of an answer of the Data API, unless a project has another limit."""


class Transport(Protocol):
    """A transport to the SQL API. Every call is a short transaction of its own.

    Raises Unreachable if the database is out of reach, StatementTimeout if a call took too long,
    Busy if a table is locked as a whole, SchemaError if the SQL API is missing, SettingsError if
    the SQL API refuses a request, and DatabaseError for any other error of the database.
    """

    cuts_answers: bool
    """Whether an answer with more than MOST_ROWS rows lacks the others, without notice."""

    def call(self, function: LiteralString, arguments: Mapping[str, Any]) -> Any:
        """Return the value that a function returns."""

    def rows(
        self, function: LiteralString, arguments: Mapping[str, Any], columns: Columns
    ) -> list[Row]:
        """Return these columns of the rows that a function returns."""

    def read(self, view: LiteralString, columns: Columns, *order: str) -> list[Row]:
        """Return these columns of all rows of a table or a view, in the order of some of them."""

    def listen(self) -> bool:
        """Ask to be woken by notifications. False if they cannot come this way."""

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until a notification comes: then True. Needs `listen` before."""

    def storable(self, words: str | None) -> str | None:
        """Return the words of a provider without the characters that the database cannot store."""

    def close(self) -> None:
        """Close the connection, if there is one. The transport is not used again."""


def columns_of(row_class: type[Any]) -> Columns:
    """Return the columns for a dataclass: its fields, with their types."""
    if row_class not in _columns:
        types = get_type_hints(row_class)
        _columns[row_class] = {field.name: types[field.name] for field in fields(row_class)}
    return _columns[row_class]


_columns: dict[type[Any], Columns] = {}  # reading the types takes as long as a short call


def bytea_array(values: Sequence[bytes]) -> str:
    """Return the SQL literal of a `bytea[]`."""
    return "{" + ",".join(f'"\\\\x{value.hex()}"' for value in values) + "}"
