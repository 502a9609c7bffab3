"""Rows that came as JSON, with the values that the types of their columns have in Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from types import UnionType
from typing import Any, TypeGuard, TypeVar, get_args, get_origin
from uuid import UUID

import numpy as np

from worker.database.migrations import MIGRATE
from worker.database.times import nearest_time
from worker.errors import SchemaError
from worker.queue.transports import Columns, Row, Vector, columns_of

Made = TypeVar("Made")


def decoded(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Return these columns of rows that came as JSON. Raises SchemaError if one is missing."""
    decoders = {name: _decoder(type_) for name, type_ in columns.items()}
    for name in columns if rows else ():
        if name not in rows[0]:
            raise SchemaError(f"this database lacks part of the SQL API: column {name}", MIGRATE)
    return [
        {
            name: row[name] if decode is None or row[name] is None else decode(row[name])
            for name, decode in decoders.items()
        }
        for row in rows
    ]


def made(class_: type[Made], row: Row) -> Made:
    """Return an object of a dataclass whose fields are columns of a row that came as JSON.

    A field may be such an object, or a list of them. Columns that are no fields are left out.
    """
    columns = columns_of(class_)
    values = decoded([row], columns)[0]
    return class_(**{name: _built(columns[name], value) for name, value in values.items()})


def _built(type_: Any, value: Any) -> Any:
    """Return the object of a dataclass, or the list of them, that a value stands for; any other
    value as it is."""
    for each in _types_in(type_) if value is not None else ():
        if _is_dataclass(each):
            return made(each, value)
        if get_origin(each) is list and _is_dataclass(element := get_args(each)[0]):
            return [made(element, row) for row in value]
    return value


def _decoder(type_: Any) -> Callable[[Any], Any] | None:
    """Return the function that makes a value of this type (or None) from its JSON."""
    types = _types_in(type_)
    return next((decode for wanted, decode in _DECODERS if wanted in types), None)


def _types_in(type_: Any) -> Sequence[Any]:
    return get_args(type_) if isinstance(type_, UnionType) else [type_]


def _is_dataclass(type_: Any) -> TypeGuard[type[Any]]:
    return is_dataclass(type_)


def _time(value: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return nearest_time(value)


def _bytes(value: str | Mapping[str, Any]) -> bytes:
    r"""Decode a bytea: PostgREST sends `\x…`, Supabase Lite an object of bytes."""
    return bytes.fromhex(value[2:]) if isinstance(value, str) else bytes(value["data"])


def _vector(value: str) -> Vector:
    return np.array(json.loads(value), dtype=np.float32)


# By the type of the value: servers differ in whether they send a numeric as a number or as text.
_DECODERS: Sequence[tuple[Any, Callable[[Any], Any]]] = (
    (datetime, _time),
    (float, float),
    (UUID, UUID),
    (bytes, _bytes),
    (list[bytes], lambda values: [_bytes(value) for value in values]),
    (Vector, _vector),
)
