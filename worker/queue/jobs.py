"""Jobs: texts to embed, from the claim to the completion."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, NewType, Protocol, Self
from uuid import UUID

import numpy as np
import numpy.typing as npt

from worker.queue.enhancement import Enhanced, Enhancement
from worker.queue.targets import ChunkFormat, ChunkUnit

JobId = NewType("JobId", int)
LeaseKey = tuple[JobId, UUID]
TextKey = tuple[JobId, UUID, bytes]
JobStatus = Literal["pending", "processing", "completed", "failed", "skipped"]
SettledStatus = Literal["completed", "skipped", "dropped", "failed", "pending"]
RefusalReason = Literal[
    "lost", "changed", "other_model", "locked", "suspended", "unwritable", "unstaged"
]


class Leased(Protocol):
    """A job with its lease."""

    @property
    def id(self) -> JobId: ...

    @property
    def lease(self) -> UUID: ...


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a document is split: its format, the most `unit`s of a chunk, the most chunks."""

    format: ChunkFormat
    size: int
    unit: ChunkUnit
    most: int


@dataclass(slots=True)  # frozen, it would take four times as long to create, for every row
class Job:
    """A text to embed, and the lease and hash that must come back with its vector.

    `document_prompt`: what the model gets before the text; None: its own prompt, since the column
    has no vectors yet. `attempts` counts its failures so far. `isolated`: its last workers died
    while they held it, so nothing else may be in flight in this process. `truncate`: if the text is
    too long for the model, as much of its beginning as fits is embedded. `waited`: for how many
    seconds it had been due when it was claimed; None for jobs with a low priority, as from a
    backfill.

    If it has a `chunking`, it is a document: its text is embedded in chunks. `stored` has the
    hashes of the chunks that have their vectors. `content` is what is put before each chunk, the
    character U+001F, and the text.

    If it has an `enhancement`, a chat model writes what is embedded with or instead of the text.
    `unenhanced`: the stored vector is of this text and model, but was made without that.
    `enhanced`: what was written meanwhile.
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
    document_prompt: str | None = None
    attempts: int = 0
    isolated: bool = False
    truncate: bool = False
    waited: float | None = field(default=None, compare=False)
    chunking: Chunking | None = None
    stored: list[bytes] | None = None
    enhancement: Enhancement | None = None
    unenhanced: bool = False
    enhanced: Enhanced | None = None
    claimed_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def lag(self) -> float | None:
        """For how many seconds it has been due by now, if known."""
        return None if self.waited is None else self.waited + time.monotonic() - self.claimed_at

    @property
    def lease_key(self) -> LeaseKey:
        """Identifies this claim among all claims of the job."""
        return self.id, self.lease

    @property
    def text_key(self) -> TextKey:
        """Identifies this text among all that are in flight, also of the same document."""
        return self.id, self.lease, self.content_hash

    @property
    def vector_key(self) -> bytes:
        """The hash of what the model gets: equal texts have equal vectors."""
        if self.enhanced is None or self.enhanced.text is None:
            return self.plain_hash
        return sha256(self.content.encode("utf-8", "surrogatepass")).digest()

    @property
    def plain_hash(self) -> bytes:
        """The hash of the text without what a chat model writes."""
        return self.content_hash

    def with_enhancement(self, enhanced: Enhanced) -> Self:
        """Return the job with what a chat model wrote for it, which is embedded instead."""
        content = self.content if enhanced.text is None else enhanced.text
        return replace(self, content=content, enhanced=enhanced)


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim: the jobs of one column to embed, and the jobs that it settled.

    `settled` counts jobs that ended without a model: completed (text and model unchanged), skipped
    (nothing to embed), dropped (record gone), failed, or pending (row being written, comes back).
    """

    jobs: list[Job]
    settled: Counter[SettledStatus]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Claim:
        """Create a claim from the rows of claim_embeddings. Removes their status."""
        statuses = [row.pop("status") for row in rows]
        for row in rows:
            row["chunking"] = row["chunking"] and Chunking(**row["chunking"])
            row["enhancement"] = row["enhancement"] and Enhancement(**row["enhancement"])
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


@dataclass(slots=True)  # not frozen, for the same reason
class Completion:
    """A vector for a job, the number of tokens it took if that is known, and what it cost.

    `cost` in US dollars; None: the price is not known. `truncated_to`: how many characters of the
    text were embedded, if not all of them. `unenhanced`: the error class of the chat model without
    whose text it was made; the job is then due again `again_in` that time (None: it is completed).
    """

    job: Job
    vector: npt.NDArray[np.float32]
    tokens: int | None
    truncated_to: int | None = None
    cost: float | None = None

    @property
    def unenhanced(self) -> str | None:
        """The error class for which it was made without enhancement, if it was."""
        return self.job.enhanced.failure if self.job.enhanced else None

    @property
    def again_in(self) -> timedelta | None:
        """When the chat model that failed is asked again."""
        return self.job.enhanced.again_in if self.job.enhanced else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A completion, or chunks of a job, that the database did not take, and why.

    lost: another worker or an edit took the lease; the vector is stale. changed: the row changed
    without its trigger. other_model: the column now holds vectors of another model; the job is
    released. locked: another session holds the row or the job; a retry may succeed.
    suspended: the table has changed, and the target waits until somebody fixes it.
    unwritable: the table does not let this row be written; the job is failed.
    unstaged: a chunk of the document has no stored vector any more.
    """

    job_id: JobId
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class Scope:
    """Which jobs a worker claims (of all columns, or of one), for how long, and by which name."""

    worker: str
    lease: timedelta
    default_model: str
    table: str | None = None
    column: str | None = None

    def includes(self, table: str, column: str) -> bool:
        """Whether the scope includes the jobs of a column."""
        return self.table in (None, table) and self.column in (None, column)


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job in a list. `preview`: the beginning of its text, None if it cannot be read.

    A job in processing has a `worker` and the end of its lease. A job that is pending again after a
    failure keeps `error_class` and `error_message`.
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
class Requeued:
    """How many jobs of a batch were made pending again, and by the database's clock when.

    The batch ends at the job `looked_to` (None: there are no more).
    """

    requeued: int
    looked_to: int | None
    called_at: datetime


@dataclass(frozen=True, slots=True)
class Reprocessed:
    """The matches of a pattern in a batch of the queue, up to the job `looked_to` (None: its end).

    `examples` has up to three of them: their `table_name`, `embedding_column`, `record_id`,
    `status` and `preview`.
    """

    matched: int
    looked_to: int | None
    examples: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rechecked:
    """How many jobs of a batch were compared with their rows, and how many of them differ.

    The batch ends at the job `looked_to` (None: there are no more).
    """

    checked: int
    changed: int
    looked_to: int | None
