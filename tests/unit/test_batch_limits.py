"""How much may go into the next batch of a column."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from uuid import UUID

import pytest

from worker.batches.input_file import Room
from worker.batches.limits import learned_limit, room_for
from worker.embedders.base import NO_CAP
from worker.queue import Batch, BatchBackfill

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
BACKFILL = BatchBackfill(
    target_id=1,
    table_name="docs",
    embedding_column="embedding",
    model="openai:text-embedding-3-small",
    dimensions=8,
    document_prompt="",
    waiting=10,
    committed=0.0,
    max_cost=None,
    most_tokens=None,
    retry_at=None,
    failures=0,
    error_class=None,
    error_message=None,
    requested_at=NOW,
)


BATCH = Batch(
    id=1,
    token=UUID(int=1),
    target_id=1,
    table_name="docs",
    embedding_column="embedding",
    model="openai:text-embedding-3-small",
    state="submitted",
    provider_state=None,
    provider_batch="batch_1",
    input_file=None,
    worker=None,
    lease_expires_at=None,
    look_at=None,
    texts=1,
    bytes=1,
    tokens=1,
    cost=None,
    completed=0,
    failed=0,
    stale=0,
    released=0,
    cancel_requested_at=None,
    error_class=None,
    error_message=None,
    created_at=NOW,
    submitted_at=NOW,
    expires_at=None,
    ended_at=None,
)


def batch(tokens: int | None) -> Batch:
    """A batch under way with some tokens."""
    return replace(BATCH, tokens=tokens)


def test_without_limits_there_is_room_for_everything() -> None:
    assert room_for(BACKFILL, [batch(10**9)], None) == Room(tokens=NO_CAP, cost=inf)


@pytest.mark.parametrize(
    ("under_way", "of_settings", "learned", "left"),
    [
        ([], 1000, None, 1000),
        ([], None, 500, 500),
        ([], 1000, 500, 500),
        ([400], 1000, None, 600),
        ([400, 300], 1000, None, 300),
        ([None], 1000, None, 1000),
    ],
)
def test_batches_of_a_model_keep_to_the_enqueued_tokens_together(
    under_way: list[int | None], of_settings: int | None, learned: int | None, left: int
) -> None:
    room = room_for(replace(BACKFILL, most_tokens=learned), map(batch, under_way), of_settings)
    assert room is not None
    assert room.tokens == left


def test_little_room_for_tokens_is_not_worth_a_batch() -> None:
    assert room_for(BACKFILL, [batch(991)], 1000) is None
    assert room_for(BACKFILL, [batch(2000)], 1000) is None


@pytest.mark.parametrize(
    ("committed", "left"), [(0.0, 50.0), (20.0, 30.0), (49.6, None), (50.0, None), (60.0, None)]
)
def test_the_cost_keeps_below_its_limit(committed: float, left: float | None) -> None:
    backfill = replace(BACKFILL, max_cost=50.0, committed=committed)
    assert backfill.is_over_budget == (left is None)
    room = room_for(backfill, [], None)
    assert (room and room.cost) == left


def test_a_budget_of_nothing_leaves_nothing() -> None:
    assert replace(BACKFILL, max_cost=0.0).is_over_budget


def test_the_limit_that_the_provider_reports_is_kept() -> None:
    assert learned_limit(batch(3000), [], 2000) == 2000
    assert learned_limit(batch(1500), [batch(1000)], 2000) == 2000


def test_if_others_use_the_limit_as_well_or_it_is_not_reported_the_next_batch_is_half() -> None:
    assert learned_limit(batch(1500), [], 2000) == 750
    assert learned_limit(batch(1500), [batch(9)], None) == 750
    assert learned_limit(batch(1), [], None) == 1
