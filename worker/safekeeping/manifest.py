"""The manifest of a backup: what it has, and how to tell that all of it is there.

It is written last, so a backup without one is not finished. While a backup is made,
`progress.json` has what there is so far, in the same format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import quote

from worker.errors import BackupDamaged

FORMAT = 1
MANIFEST, PROGRESS, PARTS = "manifest.json", "progress.json", "parts/"
END = ".parquet"  # of the name of a part
LONGEST_NAME = 150  # characters of the name of a column in that of a part
MOST_WIDTH = 16_000  # dimensions, by pgvector
MOST_ROWS = 10**8  # of a part
MOST_BYTES = 2**40  # of a part
NEWER = "Use the release of embedding-worker that made it, or a later one."
OTHER = "Use another backup: `worker backup list` shows them."


@dataclass(frozen=True, slots=True)
class Part:
    """A file with the vectors of a range of the key, from the record `first` to `last`.

    `looked_to`: the record where the next part goes on; None: it is the last one.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    first: str
    last: str
    looked_to: str | None


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """How the texts of a column are cut into chunks; `context` is SQL over the row."""

    format: str
    size: int
    unit: str
    max_chunks: int
    context: str | None


@dataclass(frozen=True, slots=True)
class EnhanceSettings:
    """The chat model that writes what is embedded with or instead of a text, and its prompt."""

    model: str
    prompt: str


@dataclass(frozen=True, slots=True)
class BackedUpColumn:
    """A watched column, as it was. `problem`: why not all of its vectors are here; None: they are.

    A text in `chunks` has a row for each chunk.
    """

    table: str
    column: str
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    vector_type: str
    width: int | None
    model: str | None
    document_prompt: str | None
    query_prompt: str | None
    chunks: ChunkSettings | None
    enhancement: EnhanceSettings | None
    parts: tuple[Part, ...]
    problem: str | None

    @property
    def name(self) -> str:
        return name_of(self.table, self.column)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup has. `finished_at` is None in `progress.json`.

    `database` tells one from others that have tables of the same names.
    """

    database: str
    started_at: datetime
    written_at: datetime
    finished_at: datetime | None
    made_by: str
    columns: tuple[BackedUpColumn, ...]

    @property
    def rows(self) -> int:
        return sum(column.rows for column in self.columns)

    @property
    def bytes(self) -> int:
        """The bytes of all parts."""
        return sum(column.bytes for column in self.columns)

    @property
    def problems(self) -> dict[str, str]:
        """Why columns are not here, or not all of their vectors."""
        return {column.name: column.problem for column in self.columns if column.problem}


def name_of(table: str, column: str) -> str:
    """Return the name of a column, which no other one has: `table` is quoted if it has to be."""
    return f'{table}."{column}"' if "." in column else f"{table}.{column}"


def part_name(column: BackedUpColumn, number: int, token: str) -> str:
    """Return the name of a part. `token`: of the process, so that no other one writes this file.

    `number`: no other part of this process has it, since long names may begin alike.
    """
    readable = quote(column.name, safe="").replace("~", "%7E")[:LONGEST_NAME]
    return f"{PARTS}{readable}-{number:04}-{token}{END}"


def to_json(manifest: Manifest) -> bytes:
    """Return a manifest as it is written."""
    content = {"format": FORMAT} | asdict(manifest)
    return json.dumps(content, indent=1, default=datetime.isoformat).encode() + b"\n"


def from_json(content: bytes, name: str) -> Manifest:
    """Return the manifest `name` as it was written. Raises BackupDamaged if anything is wrong."""
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        raise BackupDamaged(f"{name} is not readable JSON", OTHER) from None
    found = read.pop("format", None) if isinstance(read, dict) else None
    if type(found) is int and found != FORMAT:
        raise BackupDamaged(f"{name} has format {found}, and this release reads {FORMAT}", NEWER)
    try:
        if type(found) is not int:
            raise ValueError("`format` is missing")
        manifest: Manifest = _decoded(Manifest, read, "the manifest")
        _check(manifest)
    except ValueError as problem:
        raise BackupDamaged(f"{name} is not what was written: {problem}", OTHER) from None
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError if a figure is impossible, or a name leads elsewhere."""
    names = [column.name for column in manifest.columns]
    names += [part.name for column in manifest.columns for part in column.parts]
    if len(set(names)) < len(names):
        raise ValueError("a name is there twice")
    for column in manifest.columns:
        if not 1 <= (column.width or 1) <= MOST_WIDTH:
            raise ValueError(f"{column.name} has {column.width} dimensions")
        has_key = bool(column.key_columns) or (column.problem and not column.parts)
        if len(column.key_columns) != len(column.key_types) or not has_key:
            raise ValueError(f"the key of {column.name} is not complete")
        if column.parts and None in (column.width, column.model):
            raise ValueError(f"{column.name} has vectors without a model or a width")
        _check_parts(column, is_finished=manifest.finished_at is not None)


def _check_parts(column: BackedUpColumn, *, is_finished: bool) -> None:
    ends = [part.looked_to is None for part in column.parts]
    if any(ends[:-1]) or (is_finished and ends and not column.problem and not ends[-1]):
        raise ValueError(f"the parts of {column.name} do not follow one another")
    for part in column.parts:
        if not re.fullmatch(
            re.escape(PARTS) + r"[\w%][\w%.-]*" + re.escape(END), part.name, re.ASCII
        ):
            raise ValueError(f"{part.name!r} is no name of a part")
        if not re.fullmatch("[0-9a-f]{64}", part.sha256):
            raise ValueError(f"{part.name} has no SHA-256")
        if not (1 <= part.rows <= MOST_ROWS and part.rows <= part.bytes <= MOST_BYTES):
            raise ValueError(f"{part.name} has {part.rows} rows in {part.bytes} bytes")


def _decoded(wanted: Any, value: Any, where: str) -> Any:
    """Return the value of this type from its JSON. Raises ValueError if it is of another one."""
    alternatives = get_args(wanted)
    if NoneType in alternatives:
        [wanted] = [each for each in alternatives if each is not NoneType]
        return None if value is None else _decoded(wanted, value, where)
    if get_origin(wanted) is tuple and isinstance(value, list):
        return tuple(_decoded(alternatives[0], each, where) for each in value)
    if hasattr(wanted, "__dataclass_fields__") and isinstance(value, dict):
        return _decoded_fields(wanted, value, where)
    if wanted is datetime and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if type(value) is not wanted:
        raise ValueError(f"{where} is not of the right type")
    return value


def _decoded_fields(wanted: Any, value: Mapping[str, Any], where: str) -> Any:
    types = _types(wanted)
    if other := sorted(types.keys() ^ value.keys()):
        raise ValueError(f"{where} has too little or too much: `{other[0]}`")
    return wanted(**{name: _decoded(types[name], value[name], f"`{name}`") for name in types})


@cache
def _types(wanted: Any) -> dict[str, Any]:
    types = get_type_hints(wanted)
    return {field.name: types[field.name] for field in fields(wanted)}
