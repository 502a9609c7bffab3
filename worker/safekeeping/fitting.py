"""Whether the vectors of a backup fit a column of this database."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence

from worker.queue import StoredKind, Target
from worker.safekeeping.manifest import BackedUpColumn, ChunkSettings, Part

WHOLE_NUMBERS = {"smallint", "integer", "bigint"}


def problems_of(column: BackedUpColumn, target: Target, kind: StoredKind) -> Iterator[str]:
    """Say why the vectors of a backup cannot be restored into a column; nothing if they can."""
    if (tuple(kind.key_columns), tuple(kind.key_types)) != (column.key_columns, column.key_types):
        backed_up = _key(column.key_columns, column.key_types)
        yield f"its key is {_key(kind.key_columns, kind.key_types)}, in the backup {backed_up}"
    if None not in (target.dimensions, column.width) and target.dimensions != column.width:
        yield f"it has {target.dimensions} dimensions, in the backup {column.width}"
    if target.model not in (None, column.model):
        yield f"it has vectors of {target.model}, in the backup of {column.model}"
    elif target.document_prompt not in (None, column.document_prompt):
        yield "its document prompt is another one than in the backup"
    if (target.chunk_format is None) != (column.chunks is None):
        yield "its texts are embedded " + ("as a whole" if column.chunks else "in chunks")
    elif column.chunks and _chunks(column.chunks) != _cut(target):
        yield "its texts are cut into other chunks than in the backup"
    if not is_enhanced_alike(column, target):
        yield "a chat model enhances its texts otherwise than in the backup"
    elif column.chunks and target.enhance_model:
        yield "a chat model writes a part of its chunks, which is not in a backup"


def is_enhanced_alike(column: BackedUpColumn, target: Target) -> bool:
    """Whether vectors were made with what the same chat model writes by the same prompt."""
    enhancement = column.enhancement
    made_with = (enhancement.model, enhancement.prompt) if enhancement else (None, None)
    return made_with == (target.enhance_model, target.enhance_prompt)


def parts_of(column: BackedUpColumn, records: Collection[str] | None) -> Sequence[Part]:
    """Return the parts that may have some records (None: any), by the order of whole numbers."""
    if records is None or len(column.key_types) != 1 or column.key_types[0] not in WHOLE_NUMBERS:
        return column.parts
    try:
        keys = sorted(map(int, records))
        return [part for part in column.parts if _has_any(part, keys)]
    except ValueError:
        return column.parts


def _has_any(part: Part, keys: Sequence[int]) -> bool:
    return bisect_left(keys, int(part.first)) < bisect_right(keys, int(part.last))


def _key(names: Sequence[str], types: Sequence[str]) -> str:
    return ", ".join(" ".join(each) for each in zip(names, types, strict=True))


def _chunks(chunks: ChunkSettings) -> tuple[object, ...]:
    return chunks.format, chunks.size, chunks.unit, chunks.context


def _cut(target: Target) -> tuple[object, ...]:
    return target.chunk_format, target.chunk_size, target.chunk_unit, target.context
