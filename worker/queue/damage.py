"""Damaged vectors: which they are, and how they are embedded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.queue.calls import Calls
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.targets import Target

ROWS_CHECKED_IN_ONE_CALL = 5000
DamageKind = Literal["lost", "overwritten"]


@dataclass(frozen=True, slots=True)
class Damaged:
    """A completed job whose vector is gone (lost), or is not the one that was stored (overwritten).

    Its text is still the one with this `content_hash`, which `model` has embedded.
    """

    record_id: str
    damage: DamageKind
    content_hash: bytes
    model: str
    tokens: int | None
    cost: float | None


@dataclass(frozen=True, slots=True)
class DamagedRange:
    """The damaged jobs of a range of the key, which ends at the record `looked_to` (None: there are
    no more)."""

    rows: list[Damaged]
    looked_to: str | None


class DamageCalls(Calls):
    """The DamageQueue protocol."""

    def damaged(
        self, target: Target, after: str | None, batch: int = ROWS_CHECKED_IN_ONE_CALL
    ) -> DamagedRange:
        found = self._range(
            Damaged, "find_damaged_embeddings", batch, **target.arguments, after_record=after
        )
        return DamagedRange(*found)

    def requeue_damaged(self, target: Target, record_ids: Sequence[str], cost: float = 0.0) -> int:
        requeued = 0
        while record_ids:
            now, record_ids = record_ids[:JOBS_IN_ONE_CALL], record_ids[JOBS_IN_ONE_CALL:]
            requeued += self._call(
                "requeue_damaged_embeddings",
                **target.arguments,
                record_ids=list(now),
                cost=cost,
            )
            cost = 0.0  # it is all recorded, with the first of them
        return requeued

    def repair_cost(self) -> float:
        return float(self._call("embedding_repair_cost"))
