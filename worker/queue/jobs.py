"""Jobs: texts to embed, from the claim to the completion."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NewType
from uuid import UUID

import numpy as np
import numpy.typing as npt

JobId = NewType("JobId", int)
LeaseKey = tuple[JobId, UUID]
SettledStatus = Literal["completed", "skipped", "dropped", "failed", "pending"]
RefusalReason = Literal["lost", "changed", "other_model", "locked", "suspended", "unwritable"]


@dataclass(frozen=True, slots=True)
class Job:
    """A text to embed, and the lease and hash with which its vector must be handed in.

    `attempts` counts its failures so far. `isolated`: its last workers died over it or beside it,
    so nothing else is to be under way in this process. `truncate`: if the text is too long for the
    model, as much of its beginning as fits is embedded. `waited`: for how many seconds it had been
    due when it was claimed; None for what comes after all the others, as from a backfill.
    """

    id: JobId
    target_id: int
    table_name: str
    record_id: str
    embedding_column: str
    content: str
    content_hash: bytes
    lease: UUID
    model: str
    dimensions: int | None
    attempts: int = 0
    isolated: bool = False
    truncate: bool = False
    waited: float | None = field(default=None, compare=False)
    claimed_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def lag(self) -> float | None:
        """For how many seconds it has been due by now, where that was told."""
        return None if self.waited is None else self.waited + time.monotonic() - self.claimed_at

    @property
    def lease_key(self) -> LeaseKey:
        """What tells this handing-out from another of the same job."""
        return self.id, self.lease


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim took up: the jobs of one column to embed, and what it settled by itself.

    `settled` counts jobs that ended without a model: completed (text and model unchanged), skipped
    (nothing to embed), dropped (record gone), failed, or pending (row being written, comes back).
    """

    jobs: list[Job]
    settled: Counter[SettledStatus]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Claim:
        """Of the rows of claim_embeddings, with values as Job has them. Takes their status off."""
        statuses = [row.pop("status") for row in rows]
        return cls(
            jobs=[
                Job(**row)
                for row, status in zip(rows, statuses, strict=True)
                if status == "processing"
            ],
            settled=Counter(status for status in statuses if status != "processing"),
        )

    def __bool__(self) -> bool:
        """False if nothing at all was due."""
        return bool(self.jobs or self.settled)


@dataclass(frozen=True, slots=True)
class Completion:
    """A vector for a job, the number of tokens it took if that is known, and what it cost.

    `cost` in US dollars; None: the price is not known. `truncated_to`: how many characters of the
    text were embedded, if not all of them.
    """

    job: Job
    vector: npt.NDArray[np.float32]
    tokens: int | None
    truncated_to: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A completion that the database did not take, and why.

    lost: the lease is not ours any more, the vector is stale. changed: the row reads differently
    though nobody told the queue. other_model: the column holds vectors of another model by now; the
    job goes back. locked: somebody is writing it; the same may work in a moment.
    suspended: the table is not what it was, and the target waits until somebody fixes it.
    unwritable: the table does not let this row be written; the job is failed.
    """

    job_id: JobId
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose jobs a worker claims (of any table and column, or of one), for how long, as whom."""

    worker: str
    lease: timedelta
    default_model: str
    table: str | None = None
    column: str | None = None


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job as a person sees it. `preview`: how its text begins, None if it cannot be read.

    `worker` and the end of its lease where it is processing. `error_class` and `error_message` also
    where it is pending again after a failure.
    """

    table_name: str
    embedding_column: str
    record_id: str
    status: str
    attempts: int
    available_at: datetime
    lease_expires_at: datetime | None
    worker: str | None
    error_class: str | None
    error_message: str | None
    updated_at: datetime
    preview: str | None


@dataclass(frozen=True, slots=True)
class Reprocessed:
    """What matched a pattern in a stretch of the queue, up to the job `looked_to` (None: its end).

    `examples` has up to three of them: their `table_name`, `embedding_column`, `record_id`,
    `status` and `preview`.
    """

    matched: int
    looked_to: int | None
    examples: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rechecked:
    """How many jobs of a stretch were compared with their rows, and how many of them differ.

    The stretch ends at the job `looked_to` (None: there are no more).
    """

    checked: int
    changed: int
    looked_to: int | None
