"""Reports: what the database counts, estimates and finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """The progress of a watched column. `rows` and `coverage` are None if they are not known.

    `coverage_goal` is the coverage that people want, None without one.
    Unless `rows_exact`, `rows` is an estimate of the planner. Unless `due_exact`, more than `due`
    may be due, and the oldest may be older. A column in chunks has `passages`, which a search
    finds, and `chunks`, some of which may wait for the rest of their text; unless
    `passages_exact`, both are estimates.
    """

    table_name: str
    embedding_column: str
    model: str | None
    enabled: bool
    problem: str | None
    rows: int | None
    rows_exact: bool
    pending: int
    processing: int
    completed: int
    failed: int
    skipped: int
    coverage: float | None
    coverage_goal: float | None
    passages: int | None
    chunks: int | None
    passages_exact: bool | None
    due: int
    oldest_due: datetime | None
    due_exact: bool


@dataclass(frozen=True, slots=True)
class TargetCoverage:
    """The part of the progress of a watched column that says how many rows have their vector."""

    table_name: str
    embedding_column: str
    rows: int | None
    completed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """The progress of all columns together, and the rate of all workers: see embedding_progress.

    `pending` includes jobs in processing. Rate, elapsed and remaining seconds are None if they are
    not known.
    """

    pending: int
    rows_per_second: float | None
    elapsed_seconds: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The failures of a watched column, by class."""

    table_name: str
    embedding_column: str
    error_class: str | None
    failed: int
    latest_message: str
    latest_at: datetime


@dataclass(frozen=True, slots=True)
class RecentWork:
    """What was done in a period.

    Milliseconds are None if nothing was measured, `cost` (US dollars) if a price is unknown.
    """

    completed: int
    failed: int
    requests: int
    tokens: int
    cost: float | None
    request_p50_ms: float | None
    request_p95_ms: float | None
    lag_p50_ms: float | None
    lag_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Stats(RecentWork):
    """The statistics of a period: see embedding_stats in the SQL API.

    `hours` has the `hour`, jobs `completed` and `failed`, and the `seconds` of it in the period;
    `failures` the `error_class`, how many `failed` (more, unless `failed_exact`), `latest_message`
    and `latest_at`.
    """

    hours: list[dict[str, Any]]
    failures: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much there is to embed in a watched column, and a sample of it.

    `row_count` is None if it is not known. `bytes` has the length of each text of the sample,
    `texts` their beginnings. A row that needs no call of the model is counted, but has no text.
    """

    table_name: str
    embedding_column: str
    model: str
    document_prompt: str | None
    dimensions: int | None
    row_count: int | None
    bytes: list[int]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class DatabaseLoad:
    """How busy the database is. None: not visible, or there is none.

    `active_sessions`: those of the whole server that are in a transaction, without ours.
    `lock_wait_seconds`: the longest time that a session has waited for a lock.
    `vacuumed_table`: a watched table, or one of the queue, on which a vacuum is running.
    """

    active_sessions: int | None = None
    max_connections: int | None = None
    lock_wait_seconds: float | None = None
    vacuumed_table: str | None = None
    replica_lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `hint` is None if there is nothing to do."""

    level: Level
    check: str
    subject: str
    cause: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class VerifiedRows:
    """How many rows of a range have a finding, and the ids of some: see verify_embeddings.

    The range ends at the row `looked_to` (None: there are no more).
    """

    finding: str
    found: int
    record_ids: list[str]
    looked_to: str | None


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A stored vector, and the text that a model gets for it.

    `content` is None if it cannot be compared with the vector; `excluded` says why: `truncated`,
    `enhanced` or `not_in_step`. See sample_vectors.
    """

    record_id: str
    content: str | None
    excluded: str | None
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AdoptedRows:
    """What adopt_embeddings did with the rows of a range, which ends at the record `looked_to`
    (None: there are no more)."""

    adopted: int
    pending: int
    left_alone: int
    locked: int
    looked_to: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """The role of a connection, and its rights.

    `may_work`: whether it may claim jobs; None without the SQL API. `finds_vector`: whether the
    type is found without its schema; None without the extension.
    """

    role: str
    server_version: str
    may_work: bool | None
    finds_vector: bool | None
