"""The manifest of a backup, and what is refused of one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.errors import BackupDamaged
from worker.safekeeping.manifest import (
    BackedUpColumn,
    ChunkSettings,
    EnhanceSettings,
    Manifest,
    Part,
    from_json,
    to_json,
)

AT = datetime(2026, 11, 30, 17, 35, 2, tzinfo=UTC)
PARTS = tuple(
    Part(f"parts/docs.embedding-000{n}.parquet", 10 * n, 4000, f"{n:064x}", "1", "9", looked_to)
    for n, looked_to in ((1, "9"), (2, None))
)
DOCS = BackedUpColumn(
    "docs",
    "embedding",
    ("id",),
    ("bigint",),
    "vector",
    3,
    "m:odel",
    "",
    None,
    None,
    None,
    PARTS,
    None,
)
CHUNKS = ChunkSettings("markdown", 1000, "characters", 500, None)
NOTES = replace(
    DOCS,
    table="notes",
    key_columns=("a", "b"),
    key_types=("text", "uuid"),
    parts=(),
    chunks=CHUNKS,
    enhancement=EnhanceSettings("c:hat", "Describe this."),
)
MANIFEST = Manifest("7/5", AT, AT, AT, "embedding-worker 1.0", (DOCS, NOTES))


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert from_json(to_json(MANIFEST), "manifest.json") == MANIFEST
    unfinished = replace(MANIFEST, finished_at=None)
    assert from_json(to_json(unfinished), "progress.json") == unfinished
    assert (MANIFEST.rows, MANIFEST.bytes, MANIFEST.problems) == (30, 8000, {})


Change = Callable[[dict[str, Any]], object]


def docs(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["columns"][0]  # type: ignore[no-any-return]


def part(manifest: dict[str, Any]) -> dict[str, Any]:
    return docs(manifest)["parts"][0]  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[Change, str]] = {
    "another format": (lambda m: m.update(format=2), "format 2, and this release reads 1"),
    "no format": (lambda m: m.pop("format"), "`format` is missing"),
    "a format that is none": (lambda m: m.update(format="1"), "`format` is missing"),
    "a missing field": (lambda m: m.pop("made_by"), "`made_by`"),
    "a missing field of a part": (lambda m: part(m).pop("sha256"), "`sha256`"),
    "an unknown field": (lambda m: docs(m).update(colour="red"), "`colour`"),
    "a figure that is none": (lambda m: part(m).update(rows="10"), "`rows` is not of the right"),
    "a truth for a figure": (lambda m: part(m).update(rows=True), "`rows` is not of the right"),
    "null for a figure": (lambda m: part(m).update(rows=None), "`rows` is not of the right"),
    "no list of columns": (lambda m: m.update(columns={}), "`columns` is not of the right"),
    "a column that is none": (lambda m: m["columns"].append(1), "`columns` is not of the right"),
    "a time that is none": (lambda m: m.update(started_at="noon"), "not what was written"),
    "no rows in a part": (lambda m: part(m).update(rows=0), "has 0 rows"),
    "fewer rows than none": (lambda m: part(m).update(rows=-1), "has -1 rows"),
    "absurdly many rows": (lambda m: part(m).update(rows=10**18, bytes=10**19), "has 1000000"),
    "more rows than bytes": (lambda m: part(m).update(rows=5000), "5000 rows in 4000 bytes"),
    "an absurd width": (lambda m: docs(m).update(width=10**9), "1000000000 dimensions"),
    "no width": (lambda m: docs(m).update(width=None), "without a model or a width"),
    "no model": (lambda m: docs(m).update(model=None), "without a model or a width"),
    "a key without types": (lambda m: docs(m).update(key_types=[]), "the key of docs.embedding"),
    "no key": (lambda m: docs(m).update(key_types=[], key_columns=[]), "the key of docs.emb"),
    "a column twice": (lambda m: m["columns"].append(docs(m)), "there twice"),
    "a part twice": (lambda m: docs(m)["parts"].append(part(m)), "there twice"),
    "a missing last part": (lambda m: docs(m)["parts"].pop(), "do not follow one another"),
    "a part after the last": (lambda m: docs(m)["parts"].reverse(), "do not follow one another"),
    "a SHA-256 that is none": (lambda m: part(m).update(sha256="x"), "has no SHA-256"),
} | {
    f"the name {name!r}": (lambda m, name=name: part(m).update(name=name), "is no name of a part")
    for name in (
        "",
        "/etc/passwd",
        "../../other/parts/a.parquet",
        "parts/../../a.parquet",
        "parts/a/b.parquet",
        "parts/.hidden.parquet",
        "parts/a.parquet\n",
        "parts\\a.parquet",
        "manifest.json",
    )
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_manifest_that_was_changed_is_refused_by_name(case: str) -> None:
    change, words = REFUSED[case]
    changed = json.loads(to_json(MANIFEST))
    change(changed)
    with pytest.raises(BackupDamaged, match=words) as problem:
        from_json(json.dumps(changed).encode(), "manifest.json")
    assert "manifest.json" in problem.value.cause
    assert problem.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"1", b"\xff\xfe", b"[" * 100_000, b'{"format": 1e999}'],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(BackupDamaged):
        from_json(content, "manifest.json")


def test_a_manifest_that_was_torn_or_damaged_gives_the_one_named_error() -> None:
    good = to_json(MANIFEST)
    chance = random.Random(19)
    refused = 0
    for _ in range(2000):
        bad = bytearray(good)
        at = chance.randrange(len(bad))
        if chance.random() < 0.3:
            del bad[at:]
        else:
            bad[at] = chance.randrange(256)
        try:
            from_json(bytes(bad), "manifest.json")
        except BackupDamaged:
            refused += 1
    assert refused > 1000
