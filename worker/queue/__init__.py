"""The SQL API of `supabase/migrations`, seen from Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NewType, Protocol

import numpy as np
import numpy.typing as npt

JobId = NewType("JobId", int)
SettledStatus = Literal["completed", "skipped", "dropped", "failed", "pending"]
RefusalReason = Literal["lost", "changed", "locked"]


@dataclass(frozen=True, slots=True)
class Job:
    """A text to embed, and the lease and hash with which its vector must be handed in."""

    id: JobId
    table_name: str
    record_id: str
    embedding_column: str
    content: str
    content_hash: bytes
    lease: str
    model: str
    dimensions: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim took up: the jobs of one column to embed, and what it settled by itself.

    `settled` counts jobs that ended without a model: completed (text and model unchanged), skipped
    (nothing to embed), dropped (record gone), failed, or pending (row being written, comes back).
    """

    jobs: list[Job]
    settled: Counter[SettledStatus]

    def __bool__(self) -> bool:
        """False if nothing at all was due."""
        return bool(self.jobs or self.settled)


@dataclass(frozen=True, slots=True)
class Completion:
    """A vector for a job, and the number of tokens it took if that is known."""

    job: Job
    vector: npt.NDArray[np.float32]
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A completion that the database did not take, and why.

    lost: the lease is not ours any more, the vector is stale. changed: the row reads differently
    though nobody told the queue. locked: somebody is writing it; the same may work in a moment.
    """

    job_id: JobId
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class Target:
    """A watched column."""

    table_name: str
    embedding_column: str
    source: str
    filter: str | None
    model: str | None
    dimensions: int | None
    enabled: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """How far a watched column is. `rows` and `coverage` are None where they cannot be told."""

    table_name: str
    embedding_column: str
    model: str | None
    enabled: bool
    problem: str | None
    rows: int | None
    pending: int
    processing: int
    completed: int
    failed: int
    skipped: int
    coverage: float | None
    due: int
    oldest_due: datetime | None


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed in a watched column, by class."""

    table_name: str
    embedding_column: str
    error_class: str | None
    failed: int
    latest_message: str
    latest_at: datetime


@dataclass(frozen=True, slots=True)
class Match:
    """A row found by a search. Distance by cosine: 0 the same direction, 2 the opposite.

    `content` is None if the text cannot be read any more.
    """

    record_id: str
    content: str | None
    distance: float


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose jobs a worker claims (of any table and column, or of one), for how long, as whom."""

    worker: str
    lease: timedelta
    default_model: str
    table: str | None = None
    column: str | None = None


class Queue(Protocol):
    """What the engine needs of a queue. Every call is a short transaction of its own.

    Raises DatabaseError if the database is out of reach.
    """

    def claim(self, scope: Scope, batch_size: int) -> Claim:
        """Take up at most `batch_size` due jobs, all of one column. False if nothing is due.

        Raises Busy if all that is due lies in locked tables.
        """

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        """Write vectors made by `model` and end their jobs. All that is not refused is done."""

    def fail(
        self, jobs: Sequence[Job], error_class: str, message: str, retry_in: timedelta | None = None
    ) -> int:
        """Record what was wrong with the jobs. Returns how many are failed for good."""

    def release(
        self, jobs: Sequence[Job], retry_in: timedelta = timedelta(0), reason: str | None = None
    ) -> None:
        """Give the jobs back untouched."""
