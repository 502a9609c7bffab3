"""Which statements build an index, and with how much memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.cli.render.indexing import describe
from worker.errors import SettingsError
from worker.reembedding.indexing import (
    MOST_MEMORY_KB,
    IndexFacts,
    IndexProgress,
    _PhaseClock,
    is_parallel_safe,
    memory_needed,
    plan_index,
)

FACTS = IndexFacts(
    relation="public.docs",
    definition="using hnsw (embedding public.vector_cosine_ops)",
    present=None,
    leftovers=[],
    method="hnsw",
    options={},
    row_count=50_000,
    type="vector",
    dimensions=256,
    is_partitioned=False,
    vector_version="0.8.5",
    memory_kb=65_536,
    builder=None,
)
MIB = 2**20


def test_leftovers_are_dropped_before_the_build() -> None:
    plan = plan_index(replace(FACTS, leftovers=["public.a", 'public."B c"']), rebuild=False)
    assert plan.statements == [
        "drop index concurrently public.a",
        'drop index concurrently public."B c"',
        "create index concurrently on public.docs using hnsw (embedding public.vector_cosine_ops)",
    ]


def test_a_valid_index_is_built_again_only_on_request() -> None:
    present = replace(FACTS, present="public.near", leftovers=["public.near_ccnew"])
    assert plan_index(present, rebuild=False).statements == []
    assert plan_index(present, rebuild=False).script == []
    assert plan_index(present, rebuild=True).statements == [
        "drop index concurrently public.near_ccnew",
        "reindex index concurrently public.near",
    ]


@pytest.mark.parametrize(
    ("facts", "spilled_at", "memory"),
    [
        # measured with pgvector 0.8.5: the row at which the graph no longer fits into the memory
        (FACTS, 14_474, 24 * MIB),  # one process
        (replace(FACTS, type="halfvec"), 20_516, 24 * MIB),
        (replace(FACTS, options={"m": "32"}), 14_917, 32 * MIB),
        (FACTS, 36_865, 64 * MIB),  # several processes
        (FACTS, 45_599, 80_068 * 1024),
    ],
)
def test_the_memory_is_that_at_which_a_build_was_seen_to_spill(
    facts: IndexFacts, spilled_at: int, memory: int
) -> None:
    needed = memory_needed(replace(facts, row_count=spilled_at))
    assert memory <= needed <= memory + 5 * MIB


def test_a_build_gets_the_memory_that_it_needs_up_to_a_limit() -> None:
    def setting(rows: int | None, server_kb: int) -> str | None:
        facts = replace(FACTS, row_count=rows, memory_kb=server_kb)
        return plan_index(facts, rebuild=False).settings.get("maintenance_work_mem")

    assert setting(50_000, 65_536) == f"{memory_needed(FACTS) // 1024}kB"
    assert setting(50_000_000, 65_536) == f"{MOST_MEMORY_KB}kB"
    for enough in (setting(100, 65_536), setting(None, 65_536), setting(50_000_000, 4 * 2**20)):
        assert enough is None  # the setting of the server stays


def test_lists_need_the_distances_of_their_samples() -> None:
    lists = replace(FACTS, method="ivfflat", options={"lists": "1000"})
    assert memory_needed(lists) > 50_000 * 1000 * 4
    assert memory_needed(replace(lists, type="halfvec")) < memory_needed(lists)
    assert memory_needed(replace(FACTS, method="diskann")) == 0


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("0.5.1", False),
        ("0.6.0", False),
        ("0.8.1", False),
        ("0.8.2", True),
        ("0.8.10-dev", True),
        ("0.9", True),
        ("1.0.0", True),
        ("unknown", False),
    ],
)
def test_parallel_builds_only_where_pgvector_is_safe(version: str, safe: bool) -> None:
    assert is_parallel_safe(version) == safe
    settings = plan_index(replace(FACTS, vector_version=version), rebuild=False).settings
    assert settings.get("max_parallel_maintenance_workers") == (None if safe else "0")


@pytest.mark.parametrize(
    ("facts", "cause", "hint"),
    [
        (replace(FACTS, dimensions=2001), "at most 2000", "halfvec(2001)"),
        (replace(FACTS, dimensions=4001), "at most 2000", "at most 4000"),
        (replace(FACTS, type="halfvec", dimensions=4001), "at most 4000", "at most 4000"),
        (replace(FACTS, dimensions=None), "no fixed width", "vector(n)"),
        (replace(FACTS, is_partitioned=True), "is partitioned", "for each partition"),
    ],
)
def test_what_can_have_no_index_is_refused(facts: IndexFacts, cause: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=cause) as problem:
        plan_index(facts, rebuild=False)
    assert hint in str(problem.value.hint)


def test_a_script_sets_the_session_up_and_has_one_statement_a_line() -> None:
    assert plan_index(replace(FACTS, row_count=1), rebuild=False).script == [
        "set statement_timeout = '0';",
        "create index concurrently on public.docs using hnsw (embedding public.vector_cosine_ops);",
    ]


def test_the_remaining_time_is_that_of_the_phase() -> None:
    times = iter([0.0, 0.0, 0.0, 10.0, 10.0, 11.0, 11.0])
    clock = _PhaseClock(lambda: next(times))
    assert clock.progress("load", 0, 100, None, None) == IndexProgress("load", 0.0, None, None)
    assert clock.progress("load", 25, 100, None, None).remaining == 30
    waiting = clock.progress("wait", 0, 0, 7, "psql")
    assert (waiting.fraction, waiting.remaining) == (None, None)
    assert waiting.waits_for == "process 7 (psql)"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (IndexProgress(None, None, None, None), "preparing"),
        (
            IndexProgress("building index: loading tuples", 0.999, 90, None),
            "building index: loading tuples, 99%, 1 min 30 s remaining in this phase",
        ),
        (
            IndexProgress("waiting for old snapshots", None, None, "process 7 (psql)"),
            "waiting for old snapshots: process 7 (psql) has a transaction open or holds a lock",
        ),
        (
            IndexProgress(None, None, None, "process 7 (psql)"),
            "preparing, waiting: process 7 (psql) has a transaction open or holds a lock",
        ),
    ],
)
def test_progress_is_one_line(progress: IndexProgress, line: str) -> None:
    assert describe(progress) == line
