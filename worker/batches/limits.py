"""How much may go into the next batch of a column, by the limits of its account and of its cost."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from worker.batches.input_file import Room
from worker.embedders.base import NO_CAP
from worker.queue import Batch, BatchBackfill
from worker.queue.batches import SMALLEST_SHARE


def room_for(
    backfill: BatchBackfill, under_way: Iterable[Batch], most_tokens: int | None
) -> Room | None:
    """Return the room in the next batch of a column, beside those that are `under_way`. None: a
    limit leaves no room now.

    `most_tokens`: of the settings, for all batches of a model together.
    """
    tokens = _tokens_left(backfill, list(under_way), most_tokens)
    if tokens is None or backfill.is_over_budget:
        return None
    return Room(tokens=tokens, cost=inf if backfill.cost_left is None else backfill.cost_left)


def _tokens_left(
    backfill: BatchBackfill, under_way: list[Batch], most_tokens: int | None
) -> int | None:
    limits = [most for most in (most_tokens, backfill.most_tokens) if most is not None]
    if not limits:
        return NO_CAP
    most = min(limits)
    left = most - sum(batch.tokens or 0 for batch in under_way)
    if not under_way:
        return most
    return left if left > SMALLEST_SHARE * most else None


def learned_limit(batch: Batch, under_way: Iterable[Batch], reported: int | None) -> int:
    """Return the most enqueued tokens, after a batch was one too many for the account.

    If it fits into the limit that the provider reported, others use that limit as well: the next
    batch is half as large.
    """
    tokens = batch.tokens or 2
    together = tokens + sum(each.tokens or 0 for each in under_way)
    if reported is not None and reported < together:
        return reported
    return max(tokens // 2, 1)
