"""The parts of a backup: Parquet files, one row a vector, with a row group for each range.

Vectors are 32-bit floats, bit for bit; those of a halfvec are widened. Their bytes are stored in
four streams before they are compressed, because the first bytes of floats are alike.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np

from worker.digests import sha256_of
from worker.errors import BackupDamaged, SettingsError
from worker.queue.safekeeping import StoredRow
from worker.safekeeping.manifest import FORMAT, OTHER, BackedUpColumn, Part

ABOUT = b"embedding-worker"  # the key of what a part says about itself
NAMES = [field.name for field in fields(StoredRow)]  # the vector is the last
_values = attrgetter(*NAMES)


def check_installed() -> None:
    """Raise SettingsError if the library for Parquet is not installed."""
    if find_spec("pyarrow") is None:
        raise SettingsError(
            "backups need pyarrow, which is not installed",
            "pip install 'embedding-worker[backup]'",
        )


@cache
def _pyarrow() -> Any:
    """Import the library, which takes half a second.

    With its own allocator, a backup of wide vectors took 35 MB more.
    """
    import pyarrow.parquet

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    return pyarrow


class PartWriter:
    """Writes a part. The same rows give the same bytes, with the same release of pyarrow."""

    def __init__(self, path: Path, column: BackedUpColumn) -> None:
        """Begin a file. Raises OSError."""
        pyarrow = _pyarrow()
        self._schema = _schema().with_metadata({ABOUT: json.dumps(_about(column)).encode()})
        self._file = path.open("wb")
        self._writer = pyarrow.parquet.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=["model", "unenhanced"],
            column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"},
            write_statistics=False,
        )

    def write(self, rows: Sequence[StoredRow]) -> None:
        """Add a row group. Raises OSError."""
        pyarrow = _pyarrow()
        *others, vectors = zip(*map(_values, rows), strict=True)
        columns = [
            pyarrow.array(values, field.type)
            for values, field in zip(others, self._schema, strict=False)
        ]
        columns.append(_vectors(vectors))
        self._writer.write_batch(pyarrow.record_batch(columns, schema=self._schema))

    @property
    def bytes(self) -> int:
        """How many bytes were written."""
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the file. Raises OSError."""
        try:
            self._writer.close()
        finally:
            self._file.close()


def check_part(path: Path, part: Part) -> None:
    """Raise BackupDamaged unless a file has the bytes that were written."""
    try:
        is_same = path.stat().st_size == part.bytes and sha256_of(path).hex() == part.sha256
    except OSError as error:
        raise BackupDamaged(f"{part.name} cannot be read: {error.strerror}", OTHER) from None
    if not is_same:
        raise BackupDamaged(f"{part.name} is not what was written: its SHA-256 differs", OTHER)


def read_part(
    path: Path, part: Part, column: BackedUpColumn, only: Collection[str] | None = None
) -> Iterator[list[StoredRow]]:
    """Return the rows of each row group; `only`: those of these records.

    Raises BackupDamaged if anything is wrong; before the first row, unless it is with the rows.
    """
    pyarrow = _pyarrow()
    check_part(path, part)
    try:
        yield from _row_groups(path, part, column, only)
    except (pyarrow.ArrowException, OSError, ValueError) as problem:
        words = str(problem).partition("\n")[0]
        raise BackupDamaged(f"{part.name} is not what was written: {words}", OTHER) from None


def _row_groups(
    path: Path, part: Part, column: BackedUpColumn, only: Collection[str] | None
) -> Iterator[list[StoredRow]]:
    pyarrow = _pyarrow()
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        if not file.schema_arrow.equals(_schema()):
            raise ValueError("it has other columns")
        if json.loads((file.schema_arrow.metadata or {}).get(ABOUT, b"null")) != _about(column):
            raise ValueError("it belongs to another column")
        if file.metadata.num_rows != part.rows:
            raise ValueError(f"it has {file.metadata.num_rows} rows instead of {part.rows}")
        for group in range(file.metadata.num_row_groups):
            if only is None or _has_any(file, group, only):
                rows = _rows(file.read_row_group(group, use_threads=False), column.width)
                yield [row for row in rows if only is None or row.record_id in only]


def _has_any(file: Any, group: int, only: Collection[str]) -> bool:
    ids = file.read_row_group(group, columns=["record_id"], use_threads=False)["record_id"]
    return not set(only).isdisjoint(ids.to_pylist())


def _rows(group: Any, width: int | None) -> list[StoredRow]:
    [batch] = group.combine_chunks().to_batches()
    batch.validate(full=True)
    vectors = batch["vector"]
    if any(batch[name].null_count for name in ("record_id", "content_hash", "vector")):
        raise ValueError("it has rows without a key or a vector")
    matrix = vectors.flatten().to_numpy(zero_copy_only=True)
    if not np.array_equal(np.diff(vectors.offsets), np.full(len(batch), width)):
        raise ValueError("it has vectors of another width")
    if not np.isfinite(matrix).all():
        raise ValueError("it has vectors with NaN or infinity")
    others = [batch[name].to_pylist() for name in NAMES if name != "vector"]
    every: Iterator[tuple[Any, ...]] = zip(*others, matrix.reshape(len(batch), -1), strict=True)
    return [StoredRow(*row) for row in every]


def _vectors(vectors: Sequence[Any]) -> Any:
    pyarrow = _pyarrow()
    ends = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
    values = pyarrow.array(np.concatenate(vectors).astype(np.float32, copy=False))
    return pyarrow.ListArray.from_arrays(ends, values, type=_schema().field("vector").type)


def _about(column: BackedUpColumn) -> dict[str, Any]:
    """What a part says about itself."""
    return {
        "format": FORMAT,
        "table": column.table,
        "column": column.column,
        "model": column.model,
        "document_prompt": column.document_prompt,
        "width": column.width,
        "of_chunks": column.chunks is not None,
    }


@cache
def _schema() -> Any:
    pyarrow = _pyarrow()

    def of(name: str, type_: Any, nullable: bool = True) -> Any:
        return pyarrow.field(name, type_, nullable)

    element = of("element", pyarrow.float32(), False)
    return pyarrow.schema(
        [
            of("record_id", pyarrow.string(), False),
            of("content_hash", pyarrow.binary(), False),
            of("model", pyarrow.string(), False),
            of("tokens", pyarrow.int32()),
            of("cost", pyarrow.float32()),
            of("truncated_to", pyarrow.int32()),
            of("unenhanced", pyarrow.string()),
            of("completed_at", pyarrow.timestamp("us", "UTC")),
            of("vector", pyarrow.list_(element), False),
        ]
    )
