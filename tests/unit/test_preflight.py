"""What a preflight finds, all of it in one report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.queue import Store
from worker.reembedding.config import WantedStore
from worker.reembedding.preflight import (
    ReembeddingFacts,
    bytes_of_index,
    bytes_of_vectors,
    preflight,
)
from worker.reembedding.store import choose_store

FACTS = ReembeddingFacts(
    table_name="docs",
    column_type="vector",
    present_dimensions=256,
    wanted_dimensions=1024,
    row_count=100_000,
    table_bytes=200 * 2**20,
    is_partitioned=False,
    is_of_type=False,
    has_children=False,
    store="column",
    problem=None,
    index_name=None,
    index_is_valid=None,
    index_bytes=None,
    vector_version="0.8.5",
    server_version="18.4",
    publications=[],
    standbys=0,
    slots=0,
    dependents=[],
)
VIEW = {"kind": "view", "name": "public.near", "cure": "Run `drop view public.near`."}


def checks(facts: ReembeddingFacts, store: Store | None = "column") -> list[tuple[str, str]]:
    return [(finding.level, finding.check) for finding in preflight(facts, store)]


def test_without_a_problem_only_the_space_is_noted() -> None:
    assert checks(FACTS) == [("note", "space")]
    [space] = preflight(FACTS)
    assert "391 MB for the vectors" in space.cause
    assert "cannot be seen in SQL" in space.cause


@pytest.mark.parametrize(
    ("facts", "level", "check"),
    [
        (replace(FACTS, is_partitioned=True), "problem", "table"),
        (replace(FACTS, is_of_type=True), "problem", "table"),
        (replace(FACTS, has_children=True), "problem", "table"),
        (replace(FACTS, problem="the column is gone"), "problem", "suspended"),
        (replace(FACTS, wanted_dimensions=4001), "problem", "dimensions"),
        (replace(FACTS, wanted_dimensions=0), "problem", "dimensions"),
        (replace(FACTS, vector_version="0.6.2"), "problem", "vector_version"),
        (replace(FACTS, dependents=[VIEW]), "warning", "dependent"),
        (replace(FACTS, index_name="i", index_is_valid=False), "warning", "index_invalid"),
        (replace(FACTS, slots=1), "warning", "inactive_slots"),
        (replace(FACTS, wanted_dimensions=2001), "note", "halfvec"),
        (replace(FACTS, publications=["every"]), "note", "replication"),
        (replace(FACTS, standbys=2), "note", "replication"),
        (replace(FACTS, index_name="i", index_is_valid=True), "note", "index_during_fill"),
        (replace(FACTS, vector_version="0.8.1"), "note", "serial_build"),
    ],
)
def test_each_fact_that_matters_has_a_finding(
    facts: ReembeddingFacts, level: str, check: str
) -> None:
    assert (level, check) in checks(facts)
    assert (level, check) not in checks(FACTS)


def test_everything_is_in_one_report_with_the_problems_first() -> None:
    facts = replace(
        FACTS,
        is_partitioned=True,
        problem="gone",
        wanted_dimensions=5000,
        dependents=[VIEW, VIEW | {"name": "public.other"}],
        publications=["every"],
    )
    found = preflight(facts)
    assert [finding.level for finding in found[:5]] == ["problem"] * 3 + ["warning"] * 2
    assert found[3].subject == "view public.near"
    assert found[3].hint == VIEW["cure"]
    assert all(finding.hint for finding in found if finding.level != "note")


def test_an_index_slows_down_only_a_fill_beside_it() -> None:
    indexed = replace(FACTS, index_name="i", index_is_valid=True)
    slow = ("note", "index_during_fill")
    assert slow not in checks(replace(indexed, row_count=10))
    assert slow not in checks(replace(indexed, store="table"))
    assert slow not in checks(indexed, "table")
    assert slow not in checks(replace(indexed, store="chunks"), None)


@pytest.mark.parametrize(
    ("facts", "wanted", "store", "reason"),
    [
        (FACTS, "auto", "column", "the present ones are in one"),
        (replace(FACTS, index_name="i"), "auto", "table", "the index i would slow down each write"),
        (replace(FACTS, index_name="i", row_count=9_999), "auto", "column", ""),
        (replace(FACTS, index_name="i"), "column", "column", "you asked for it"),
        (replace(FACTS, is_partitioned=True), "auto", "table", "the table is partitioned"),
        (replace(FACTS, is_of_type=True), "auto", "table", "the table has the columns of a type"),
        (replace(FACTS, store="table"), "auto", "table", "the present ones are in one"),
        (replace(FACTS, store="chunks"), "auto", None, "the texts are in chunks"),
    ],
)
def test_the_store_of_new_vectors_is_chosen_by_what_is_fast_and_possible(
    facts: ReembeddingFacts, wanted: WantedStore, store: Store | None, reason: str
) -> None:
    choice = choose_store(wanted, facts)
    assert choice.store == store
    assert reason in choice.reason


@pytest.mark.parametrize(
    "kind", [{"is_partitioned": True, "has_children": True}, {"is_of_type": True}]
)
def test_a_side_table_needs_no_column(kind: dict[str, Any]) -> None:
    facts = replace(FACTS, **kind)
    assert ("problem", "table") in checks(facts)
    assert ("problem", "table") not in checks(facts, "table")


def test_no_store_can_be_chosen_for_chunks() -> None:
    with pytest.raises(SettingsError, match="in chunks, which have tables of their own"):
        choose_store("table", replace(FACTS, store="chunks"))


def test_the_space_is_that_of_the_type_and_of_whole_pages() -> None:
    assert bytes_of_vectors(replace(FACTS, wanted_dimensions=2000)) == 100_000 * 8008
    assert bytes_of_vectors(replace(FACTS, wanted_dimensions=3000)) == 100_000 * 6008
    assert bytes_of_index(replace(FACTS, wanted_dimensions=1536)) == 100_000 * 8192
    assert bytes_of_index(replace(FACTS, row_count=0)) == 0
    assert bytes_of_index(replace(FACTS, row_count=None)) == 0
