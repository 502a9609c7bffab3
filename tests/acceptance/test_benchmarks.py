"""Short runs of benchmarks: which figures they have, whatever their values are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pgai
from benchmarks.__main__ import main
from tests.conftest import REPOSITORY
from tests.documents import KINDS

pytestmark = pytest.mark.timeout(1200)  # each starts up to ten processes, slowly on a busy machine


def figures(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The figures of a short run."""
    found = folder / "figures.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--quick", "--json", str(found)],
        cwd=REPOSITORY,
        check=True,
    )
    return json.loads(found.read_text())["figures"]  # type: ignore[no-any-return]


@pytest.mark.only_in_full
def test_statements_and_writers_at_once_are_compared_with_a_plain_table(tmp_path: Path) -> None:
    groups = ("triggers", "writers_at_once", "monitor")
    chosen = [argument for group in groups for argument in ("--only", group)]
    found = figures(tmp_path, "queue", *chosen)
    assert "triggers: one DELETE" in [figure["what"] for figure in found]
    assert [figure["what"] for figure in found if figure["unit"] == "edits/s"] == [
        *(f"writers_at_once: 8 writers, watched columns: {watched}" for watched in (1, 2, 3)),
        "monitor: 8 writers beside it",
    ]
    assert all(figure["measured"] > 0 and figure["limit"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_queries_by_the_http_api_are_measured_beside_the_model(tmp_path: Path) -> None:
    found = figures(tmp_path, "web")
    assert [figure["unit"] for figure in found] == ["ms", "requests/s"] * 2
    assert all(figure["measured"] > 0 for figure in found)


@pytest.mark.skipif(
    not pgai.is_installed(), reason="pgai is not installed: `scripts/bench rivals` installs it"
)
@pytest.mark.parametrize("groups", [("writers",), ("throughput", "memory"), ("latency",)], ids=str)
def test_each_group_of_the_rivals_compares_with_pgai(
    tmp_path: Path, groups: tuple[str, ...]
) -> None:
    chosen = [argument for group in groups for argument in ("--only", group)]
    found = figures(tmp_path, "rivals", *chosen)
    assert {figure["what"].split(":")[0] for figure in found} == set(groups)
    assert any(f"limit: pgai {pgai.VERSION}" in figure["what"] for figure in found)
    assert all(figure["samples"] and figure["limits"] for figure in found)


@pytest.mark.only_in_full
def test_rivals_that_cannot_be_installed_are_skipped_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pgai, "FOLDER", tmp_path / "pgai")
    monkeypatch.setattr(pgai, "PACKAGES", ("pgai==0.0.0.dev0",))  # there is no such version
    monkeypatch.setattr(sys, "argv", ["scripts/bench", "rivals", "--quick"])
    main()
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    reason = stderr.splitlines()[-1]
    assert reason.startswith(f"pgai {pgai.VERSION} could not be installed, so nothing was compared")
    assert not pgai.is_installed()


@pytest.mark.only_in_full
def test_splitting_is_measured_for_each_kind_of_document(tmp_path: Path) -> None:
    found = figures(tmp_path, "chunks", "--only", "splitting")
    rates = [figure for figure in found if figure["unit"] == "MB/s"]
    assert {figure["what"] for figure in rates if figure["limits"]} == set(KINDS)
    assert all(figure["measured"] > 0 for figure in rates)
    assert sum(figure["unit"] == "chunks" for figure in found) == 4 * len(KINDS)
    assert [figure["measured"] > 1 for figure in found if figure["unit"] == "MB"] == [True]


@pytest.mark.only_in_full
def test_storing_is_compared_with_a_copy_of_the_same_rows(tmp_path: Path) -> None:
    found = figures(tmp_path, "chunks", "--only", "storing")
    assert [figure["unit"] for figure in found] == ["chunks/s", "documents/s", "MB/s"] * 2
    assert all(figure["measured"] > 0 and figure["limit"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_a_swap_is_measured_with_and_without_an_index(tmp_path: Path) -> None:
    found = figures(tmp_path, "chunks", "--only", "swap")
    assert sum("HNSW index" in figure["what"] for figure in found) == len(found) / 2 == 4
    embedded = [figure for figure in found if figure["unit"] == "chunks"]
    assert [figure["verdict"] for figure in embedded] == ["ok", "ok"]
    assert all(figure["measured"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_a_fill_is_measured_beside_an_index_and_without_one(tmp_path: Path) -> None:
    found = figures(tmp_path, "reembedding", "--only", "fill")
    assert [figure["what"].partition(", into a ")[2] for figure in found] == [
        "side table (limit: without the index)",
        "second column (limit: a side table)",
    ]
    assert all(figure["measured"] > 0 and figure["limit"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_steps_of_a_re_embedding_are_measured_beside_a_reader_and_a_writer(tmp_path: Path) -> None:
    groups = ("steps", "reader", "writers")
    chosen = [argument for group in groups for argument in ("--only", group)]
    found = figures(tmp_path, "reembedding", *chosen)
    assert [figure["what"].partition(":")[0] for figure in found] == [
        *["steps"] * 6,
        *["reader"] * 3,
        *["writers"] * 4,
    ]
    assert all(figure["measured"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_a_worker_embeds_a_long_document_in_little_more_memory(tmp_path: Path) -> None:
    found = figures(tmp_path, "chunks", "--only", "whole")
    assert [figure["unit"] for figure in found] == ["MB/s", "MB/s", "MB", "MB"]
    assert [figure["verdict"] for figure in found[2:]] == ["ok", "ok"]


@pytest.mark.only_in_full
def test_scans_of_files_are_compared_with_a_walk(tmp_path: Path) -> None:
    found = figures(tmp_path, "files", "--only", "scan")
    assert [figure["unit"] for figure in found] == ["s"] * 4
    assert all(figure["measured"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_a_backup_and_its_restore_are_compared_with_single_statements(tmp_path: Path) -> None:
    found = figures(tmp_path, "backup")
    assert [figure["unit"] for figure in found] == ["rows/s"] * 2 + ["bytes", "MB"] + ["rows/s"] * 2
    assert [figure["verdict"] for figure in found[2:4]] == ["ok", "ok"]
    assert all(figure["measured"] > 0 for figure in found)


@pytest.mark.only_in_full
def test_workers_are_compared_with_one_of_them_and_with_the_database(tmp_path: Path) -> None:
    groups = ("workers", "allowance", "storage")
    chosen = [argument for group in groups for argument in ("--only", group)]
    found = figures(tmp_path, "scale", *chosen)
    compared = [figure for figure in found if figure["limits"]]
    assert len(compared) == 2
    assert all(figure["measured"] > 0 and figure["limit"] > 0 for figure in compared)
    assert sum("allowance" in figure["what"] for figure in found) == 9
    assert all(figure["measured"] > 0 for figure in found if figure["unit"] == "bytes a row")
