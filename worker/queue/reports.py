"""Reports: what the database counts, estimates and finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """How far a watched column is. `rows` and `coverage` are None where they cannot be told.

    Unless `rows_exact`, `rows` is an estimate of the planner; unless `due_exact`, at least so many
    are due, and the oldest may be older.
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
    due: int
    oldest_due: datetime | None
    due_exact: bool


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """How far all columns are together, and how fast all workers are: see embedding_progress.

    `pending` with those in processing. Rate, elapsed and remaining seconds are None where nothing
    is known of them.
    """

    pending: int
    due: int
    oldest_due: datetime | None
    rows_per_second: float | None
    elapsed_seconds: float | None
    eta_seconds: float | None


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
class Stats:
    """What was done in a span of time: see embedding_stats in the SQL API.

    Milliseconds are None where nothing was measured, `cost` (US dollars) where a price is unknown.
    `hours` has the `hour`, jobs `completed` and `failed`, and the `seconds` of it that are meant;
    `failures` the `error_class`, how many `failed`, `latest_message` and `latest_at`.
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
    hours: list[dict[str, Any]]
    failures: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much there is to embed in a watched column, and a sample of it.

    `row_count` is None where it cannot be told. `bytes` is the length of each text of the sample,
    `texts` are their beginnings. What needs no call to the model is counted and has no text.
    """

    table_name: str
    embedding_column: str
    model: str
    dimensions: int | None
    row_count: int | None
    bytes: list[int]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class DatabaseLoad:
    """How busy the database is. None: that cannot be seen, or there is no such thing.

    `active_sessions`: of the whole server, that are in a transaction, without ours.
    `lock_wait_seconds`: the longest that a session has waited for a lock by now.
    `vacuumed_table`: one that is watched, or of the queue, on which a vacuum is at work.
    """

    active_sessions: int | None = None
    max_connections: int | None = None
    lock_wait_seconds: float | None = None
    vacuumed_table: str | None = None
    replica_lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `hint` is None where there is nothing to do."""

    level: Level
    check: str
    subject: str
    cause: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """Who a connection is to the database.

    `may_work`: whether it may claim jobs; None where nobody can. `finds_vector`: whether the type
    is found without its schema; None where there is no such type.
    """

    role: str
    server_version: str
    may_work: bool | None
    finds_vector: bool | None
