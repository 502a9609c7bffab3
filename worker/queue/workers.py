"""Workers: what they report of themselves, and the commands that people give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

WorkerState = Literal["working", "waiting", "paused", "asleep", "stopping"]
DesiredState = Literal["work", "pause", "sleep"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker has done with a model since it started, and for how many seconds it was at it.

    `cost` in US dollars; None: the price of the model is not known. `request_ms` counts how long
    requests took that were answered, `lag_ms` how long jobs had been due when they had their
    vector: both are counts of a histogram, see `worker.engine.histogram`.
    """

    model: str
    completed: int
    failed: int
    requests: int
    tokens: int
    cost: float | None
    seconds: float = 0.0
    request_ms: Sequence[int] = ()
    lag_ms: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself: its state, and what it has done since it started.

    `usage` has each model once; of one that is left out nothing new is known. `cause` of its state
    or throttle level, where there is one. `listens`: a notification would reach it.
    """

    state: WorkerState
    completed: int = 0
    failed: int = 0
    usage: Sequence[Usage] = ()
    throttle_level: str = "full"
    cause: str | None = None
    listens: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What a worker was told to do, and when; None: never anything."""

    desired_state: DesiredState = "work"
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StandingCommand:
    """What is wished of a worker, or of every one (`*`), also of those that start later."""

    worker: str
    desired_state: DesiredState
    since: datetime

    @property
    def is_for_all(self) -> bool:
        return self.worker == "*"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, as it spoke of itself last. `rss_mb`: its memory, in MB of 2**20 bytes."""

    worker: str
    host: str
    pid: int
    state: WorkerState
    throttle_level: str
    cause: str | None
    rss_mb: float | None
    completed: int
    failed: int
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class StoppedProvider:
    """Why a provider cannot be used now, since when, and when that was last found."""

    provider: str
    error: str
    hint: str | None
    since: datetime
    seen_at: datetime
