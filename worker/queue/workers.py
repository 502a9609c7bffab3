"""Workers: their reports, and the commands for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

WorkerState = Literal["working", "waiting", "paused", "asleep", "stopping"]
DesiredState = Literal["work", "pause", "sleep"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker has done with a model since it started, and for how many seconds it worked.

    `cost` in US dollars; None: the price of the model is not known. `request_ms` counts how long
    answered requests took, `lag_ms` the time from when jobs were due until they had their vector.
    Both are the counts of a histogram: see `worker.engine.histogram`.
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
    """The report of a worker: its state, and what it has done since it started.

    `usage` has each model once; a model that is left out has nothing new. `cause`: of its state or
    throttle level, if there is one. `listens`: a notification would reach it.
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
    """The command for a worker, and since when; None: it never got one."""

    desired_state: DesiredState = "work"
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StandingCommand:
    """A command for one worker, or for all (`*`), including those that start later."""

    worker: str
    desired_state: DesiredState
    since: datetime

    @property
    def is_for_all(self) -> bool:
        return self.worker == "*"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The last report of a worker, with the figures of its host as in `worker.host.HostFigures`.

    `rss_mb`: its memory, in MB of 2**20 bytes. `version`: of the package that it runs.
    """

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
    version: str | None = None
    cores: int | None = None
    load: float | None = None
    cpu_percent: float | None = None
    memory_limit_mb: float | None = None


@dataclass(frozen=True, slots=True)
class StoppedProvider:
    """Why a provider cannot be used now, since when, and when that was last reported."""

    provider: str
    error: str
    hint: str | None
    since: datetime
    seen_at: datetime
