"""The Parquet files of a backup: what was written is read, or nothing."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from worker.digests import sha256_of
from worker.errors import BackupDamaged, SettingsError
from worker.queue.safekeeping import StoredRow
from worker.safekeeping.manifest import BackedUpColumn, Part
from worker.safekeeping.parts import PartWriter, check_installed, check_part, read_part

WIDTH = 24
COLUMN = BackedUpColumn(
    "docs",
    "embedding",
    ("id",),
    ("bigint",),
    "vector",
    WIDTH,
    "m:odel",
    "",
    None,
    None,
    None,
    (),
    None,
)
AT = datetime(2026, 11, 30, 17, 35, 2, 123456, UTC)
ODD = [np.float32(x) for x in (-0.0, 1e-45, 3.4028235e38, -1.1754944e-38, 0.1)]
"""Numbers that are the same only bit for bit."""


def rows(ids: Sequence[int]) -> list[StoredRow]:
    chance = np.random.default_rng(ids[0])
    vectors = chance.standard_normal((len(ids), WIDTH), dtype=np.float32)
    vectors[:, : len(ODD)] = ODD
    return [
        StoredRow(
            f"ä{number}",
            chance.bytes(32),
            "m:odel",
            number if number % 2 else None,
            float(np.float32(0.001)) if number % 2 else None,
            None if number % 3 else 100,
            None if number % 5 else "chat_failed",
            AT if number % 7 else None,
            vectors[place],
        )
        for place, number in enumerate(ids)
    ]


GROUPS = [rows(range(10)), rows(range(10, 15)), rows(range(15, 40))]


def write(path: Path, *groups: Sequence[StoredRow], column: BackedUpColumn = COLUMN) -> Part:
    """Write a part, and return it as its manifest has it."""
    with PartWriter(path, column) as writer:
        for group in groups:
            writer.write(group)
    ids = [row.record_id for group in groups for row in group]
    size, sha256 = path.stat().st_size, sha256_of(path).hex()
    return Part("parts/a.parquet", len(ids), size, sha256, ids[0], ids[-1], None)


def signed(path: Path, part: Part) -> Part:
    """A part whose manifest was made for these bytes."""
    return replace(part, bytes=path.stat().st_size, sha256=sha256_of(path).hex())


def read(path: Path, part: Part, column: BackedUpColumn = COLUMN) -> list[list[StoredRow]]:
    return list(read_part(path, part, column))


def comparable(groups: Sequence[Sequence[StoredRow]]) -> list[list[dict[str, object]]]:
    return [
        [asdict(row) | {"vector": row.vector.tobytes(), "type": row.vector.dtype} for row in group]
        for group in groups
    ]


def test_rows_come_back_bit_for_bit_in_the_row_groups_they_were_written_in(tmp_path: Path) -> None:
    part = write(tmp_path / "a", *GROUPS)
    assert comparable(read(tmp_path / "a", part)) == comparable(GROUPS)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", *GROUPS).sha256 == write(tmp_path / "b", *GROUPS).sha256


def test_vectors_are_stored_in_streams_of_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", *GROUPS)
    columns = pyarrow.parquet.ParquetFile(tmp_path / "a").metadata.row_group(0)
    vectors = columns.column(columns.num_columns - 1)
    assert "BYTE_STREAM_SPLIT" in vectors.encodings
    assert vectors.compression == "ZSTD"


def test_other_libraries_can_read_a_part(tmp_path: Path) -> None:
    write(tmp_path / "a", *GROUPS)
    table = pyarrow.parquet.read_table(tmp_path / "a")
    assert table["record_id"].to_pylist() == [row.record_id for group in GROUPS for row in group]


def test_only_the_rows_of_some_records_are_read(tmp_path: Path) -> None:
    part = write(tmp_path / "a", *GROUPS)
    found = list(read_part(tmp_path / "a", part, COLUMN, only={"ä3", "ä39", "other"}))
    assert [[row.record_id for row in group] for group in found] == [["ä3"], ["ä39"]]


def test_any_flipped_bit_is_found_before_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "a"
    part = write(path, *GROUPS)
    good = path.read_bytes()
    chance = random.Random(19)
    for _ in range(300):
        at = chance.randrange(len(good))
        bad = good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :]
        path.write_bytes(bad)
        with pytest.raises(BackupDamaged, match=r"parts/a\.parquet .* SHA-256 differs"):
            next(read_part(path, part, COLUMN))


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "gone"])
def test_a_torn_part_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    part = write(path, *GROUPS)
    good = path.read_bytes()
    contents = {"cut": good[:-1], "longer": good + b"\0", "empty": b"", "gone": good}
    path.write_bytes(contents[change])
    if change == "gone":
        path.unlink()
    with pytest.raises(BackupDamaged, match=r"parts/a\.parquet"):
        check_part(path, part)


def test_a_part_that_was_damaged_and_signed_again_gives_the_one_named_error(tmp_path: Path) -> None:
    """Whoever can write the manifest can write vectors, but he cannot break the worker."""
    path = tmp_path / "a"
    part = write(path, *GROUPS)
    good = path.read_bytes()
    chance = random.Random(19)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(chance.choice([1, 1, 5, 50])):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        path.write_bytes(bad)
        try:
            for group in read(path, signed(path, part)):
                assert all(np.isfinite(row.vector).all() for row in group)
                assert all(len(row.vector) == WIDTH for row in group)
        except BackupDamaged:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"table": "other"}, "belongs to another column"),
        ({"column": "other"}, "belongs to another column"),
        ({"model": "m:other"}, "belongs to another column"),
        ({"document_prompt": "other: "}, "belongs to another column"),
        ({"width": 25}, "belongs to another column"),
    ],
)
def test_a_part_of_another_column_is_refused(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    part = write(tmp_path / "a", *GROUPS)
    with pytest.raises(BackupDamaged, match=words):
        read(tmp_path / "a", part, replace(COLUMN, **change))  # type: ignore[arg-type]


def test_a_part_with_other_figures_is_refused(tmp_path: Path) -> None:
    part = write(tmp_path / "a", *GROUPS)
    with pytest.raises(BackupDamaged, match="has 40 rows instead of 41"):
        read(tmp_path / "a", replace(part, rows=41))


def test_a_vector_that_is_none_is_refused(tmp_path: Path) -> None:
    for vector, words in (
        (np.full(WIDTH, np.nan, np.float32), "NaN"),
        (np.zeros(WIDTH - 1, np.float32), "another width"),
    ):
        wrong = replace(GROUPS[0][0], vector=vector)
        part = write(tmp_path / "a", [*GROUPS[0][1:], wrong])
        with pytest.raises(BackupDamaged, match=words):
            read(tmp_path / "a", part)


def test_a_file_that_is_no_part_is_refused(tmp_path: Path) -> None:
    part = write(tmp_path / "a", *GROUPS)
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "b")
    (tmp_path / "c").write_bytes(b"PAR1" * 20)
    for name, words in (("b", "has other columns"), ("c", "not what was written")):
        with pytest.raises(BackupDamaged, match=words):
            read(tmp_path / name, signed(tmp_path / name, part))


def test_a_missing_library_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match="need pyarrow") as problem:
        check_installed()
    assert problem.value.hint == "pip install 'embedding-worker[backup]'"
