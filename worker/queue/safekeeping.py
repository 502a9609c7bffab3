"""The calls for backups: stored vectors with what they were made from, and how they come back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from worker.errors import DatabaseError
from worker.queue.calls import Calls
from worker.queue.jobs import Claim, Scope
from worker.queue.targets import Target
from worker.queue.transports import MOST_ROWS
from worker.queue.worker_calls import CLAIMED

ROWS_EXPORTED_IN_ONE_CALL = MOST_ROWS - 1
"""Then an answer of as many as the Data API returns is a text with more chunks."""
LONGEST_RESTORE = 0.5  # seconds of a call

Outcome = Literal["restored", "present", "other_vector", "stale", "gone", "locked", "refused"]


@dataclass(slots=True)  # frozen, it would take four times as long to create, for every row
class StoredRow:
    """A stored vector, and what it was made from.

    `content_hash` is that of the text. Of a text in chunks, each chunk is a row: `record_id` is the
    id of the text, `content_hash` is the hash of the chunk, and the fields after `model` are None.
    """

    record_id: str
    content_hash: bytes
    model: str
    tokens: int | None
    cost: float | None
    truncated_to: int | None
    unenhanced: str | None
    completed_at: datetime | None
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Exported:
    """The stored vectors of a range of the key, which ends at the record `looked_to` (None: there
    are no more)."""

    rows: list[StoredRow]
    looked_to: str | None


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """What became of a row that was to be restored, and why if it was refused.

    restored: its vector is written. present: it has this vector already. other_vector: it has
    another vector of this text and model, which was kept. stale: its text is another one by now.
    gone: there is no such row, or it has nothing to embed. locked: another session holds it; a
    retry may succeed. refused: it cannot be read or written.
    """

    record_id: str
    outcome: Outcome
    cause: str | None


class SafekeepingCalls(Calls):
    """The calls of the SafekeepingQueue protocol that read and write vectors."""

    _restored_at_once = MOST_ROWS

    def export(
        self,
        target: Target,
        after: str | None,
        *,
        of_chunks: bool = False,
        batch: int = ROWS_EXPORTED_IN_ONE_CALL,
    ) -> Exported:
        rows, looked_to = self._range(
            StoredRow,
            "export_embeddings",
            batch,
            **target.arguments,
            of_chunks=of_chunks,
            after_record=after,
        )
        if len(rows) == MOST_ROWS and self._transport.cuts_answers:
            raise DatabaseError(
                f"{rows[0].record_id} of {target.table_name} has more chunks than the Data API"
                " returns",
                "Use a connection to the database: set DATABASE_URL.",
            )
        return Exported(rows, looked_to)

    def restore(
        self,
        target: Target,
        rows: Sequence[StoredRow],
        *,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> list[RestoreOutcome]:
        return [
            outcome
            for model, of_model in groupby(rows, key=lambda row: row.model)
            for outcome in self._restore(
                list(of_model),
                {**target.arguments, "model": model, "overwrite": overwrite, "dry_run": dry_run},
            )
        ]

    def _restore(
        self, rows: Sequence[StoredRow], arguments: Mapping[str, Any]
    ) -> list[RestoreOutcome]:
        """Restore rows with vectors of one model, as many at once as it takes in time."""
        outcomes: list[RestoreOutcome] = []

        def write(most: int) -> Sequence[StoredRow]:
            """Restore at most `most` rows. Return the remaining ones."""
            of_rows = _arguments_of(rows[:most])
            outcomes.extend(
                self._rows(RestoreOutcome, "restore_embeddings", **arguments, **of_rows)
            )
            return rows[most:]

        while rows:
            began = time.monotonic()
            size = min(len(rows), self._restored_at_once)
            rows = self._portion.within_time(size, write)
            self._adjust(time.monotonic() - began)
        return outcomes

    def _adjust(self, seconds: float) -> None:
        """Restore fewer rows at once if a call takes long, as with a vector index: their locks
        last as long as the call."""
        if seconds > LONGEST_RESTORE:
            self._restored_at_once = max(10, self._restored_at_once // 2)
        elif seconds < LONGEST_RESTORE / 4:
            self._restored_at_once = min(MOST_ROWS, self._restored_at_once * 2)

    def claim_records(
        self, target: Target, record_ids: Sequence[str], scope: Scope, *, dry_run: bool = False
    ) -> Claim:
        arguments = {
            **target.arguments,
            "worker": scope.worker,
            "lease_for": scope.lease,
            "default_model": scope.default_model,
            "dry_run": dry_run,
        }
        return self._portion.within_time(
            len(record_ids),
            lambda size: Claim.of(
                self._transport.rows(
                    "claim_records", {**arguments, "record_ids": list(record_ids[:size])}, CLAIMED
                )
            ),
        )

    def placed_chunks(self, target: Target, record_ids: Sequence[str]) -> dict[str, set[bytes]]:
        rows = self._transport.rows(
            "placed_chunks",
            {**target.arguments, "record_ids": list(record_ids)},
            {"record_id": str, "hashes": list[bytes]},
        )
        return {row["record_id"]: set(row["hashes"]) for row in rows}


def _arguments_of(rows: Sequence[StoredRow]) -> dict[str, Any]:
    return {
        "record_ids": [row.record_id for row in rows],
        "hashes": [row.content_hash for row in rows],
        "vectors": [row.vector for row in rows],
        "tokens": [row.tokens for row in rows],
        "costs": [row.cost for row in rows],
        "truncated_to": [row.truncated_to for row in rows],
        "unenhanced": [row.unenhanced for row in rows],
    }
