"""Decides the throttle level from the load of the host and the database.

Each figure has its own limit. Above it the worker slows down or pauses. It returns to full speed
only well below the limit, so that it does not oscillate. A pause that does not help ends: load from
other programs must not stop the worker for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from worker.engine.throttling import FULL, ThrottleDecision, ThrottleLevel, slowest
from worker.host import HostLoad, host_load, release_memory
from worker.queue import DatabaseLoad, Queue
from worker.settings import Settings
from worker.throttle.own_load import OwnLoad

HOST_KNOWN_FOR = 2.0  # seconds
DATABASE_KNOWN_FOR = 10.0  # seconds

WELL_BELOW = 0.8  # of a limit; below it a signal is no longer active
FULL_CGROUP = 0.9  # of its memory; at 100% processes are killed
LONGEST_PAUSE = 600.0  # seconds
LONGEST_PAUSE_FOR_MEMORY = (
    30.0  # seconds; by then requests in flight have ended, and memory was released
)


@dataclass(frozen=True, slots=True)
class LoadSignal:
    """A figure, and the throttle level while it is above its limit. None: unknown, or no limit."""

    name: str
    throttle_level: ThrottleLevel
    figure: float | None
    limit: float | None
    sentence: str = ""
    """With places for `figure` and `limit`."""
    lasting: float | None = None
    """For a figure that fluctuates: this one must be well below the limit as well."""
    is_of_memory: bool = False

    def is_active(self, before: bool) -> bool:
        """Whether it is active; `before`: whether it was active."""
        if self.figure is None or self.limit is None:
            return False
        if before:
            return max(self.figure, self.lasting or 0.0) > WELL_BELOW * self.limit
        return self.figure > self.limit

    def decision(self, lasted: float) -> ThrottleDecision:
        """Return the decision for it, after it was active for `lasted` seconds."""
        cause = self.sentence.format(figure=self.figure, limit=self.limit)
        longest = LONGEST_PAUSE_FOR_MEMORY if self.is_of_memory else LONGEST_PAUSE
        if self.throttle_level == "paused" and lasted >= longest:
            return ThrottleDecision("slow", f"{cause}; pausing for {longest:.0f} s did not help")
        return ThrottleDecision(self.throttle_level, cause)


@dataclass(frozen=True, slots=True)
class Readings:
    """The latest load of the host and the database.

    `model_is_local`: whether a model runs on this host; waiting for an API does not load it.
    """

    host: HostLoad = field(default_factory=HostLoad)
    database: DatabaseLoad = field(default_factory=DatabaseLoad)
    model_is_local: bool = True


def decision(
    readings: Readings, limits: Settings, lasted: Mapping[str, float] = {}
) -> ThrottleDecision:
    """Return the throttle level for these readings, and the figure that is its cause.

    `lasted`: for how many seconds each signal has been active, by its name.
    """
    return slowest(
        [
            signal.decision(lasted.get(signal.name, 0.0))
            for signal in active_signals(readings, limits, lasted.keys())
        ]
    )


def active_signals(
    readings: Readings, limits: Settings, before: Collection[str] = ()
) -> list[LoadSignal]:
    """Return the signals that are active now, given the names of those that were before."""
    return [
        signal for signal in _signals(readings, limits) if signal.is_active(signal.name in before)
    ]


def _signals(readings: Readings, limits: Settings) -> Iterator[LoadSignal]:
    yield from _of_memory(readings.host, limits)
    if readings.model_is_local:
        yield from _of_cpu(readings.host, limits)
    yield from _of_database(readings.database, limits)


def _of_memory(host: HostLoad, limits: Settings) -> Iterator[LoadSignal]:
    yield LoadSignal(
        "memory",
        "paused",
        host.memory_mb,
        limits.worker_max_memory_mb,
        "memory {figure:.0f} MB, above {limit} MB",
        is_of_memory=True,
    )
    if host.cgroup:
        yield LoadSignal(
            "memory of the container",
            "paused",
            host.cgroup.used,
            FULL_CGROUP * host.cgroup.limit,
            f"memory of the container {{figure:.0f}} MB of {host.cgroup.limit:.0f} MB",
            is_of_memory=True,
        )


def _of_cpu(host: HostLoad, limits: Settings) -> Iterator[LoadSignal]:
    sentence = "load {figure:.1f} a core, above {limit:g}"
    most = limits.worker_max_load
    # the higher limit first: of two signals with the same level, the first is the cause
    yield LoadSignal("high load", "paused", host.load, 2 * most, sentence)
    yield LoadSignal("load", "slow", host.load, most, sentence)
    sentence = "processes wait for a CPU {figure:.0f} % of the time, above {limit} %"
    share, lasting = limits.worker_max_cpu_pressure, host.lasting_pressure
    yield LoadSignal("high pressure", "paused", host.pressure, 2 * share, sentence, lasting)
    yield LoadSignal("pressure", "slow", host.pressure, share, sentence, lasting)


def _of_database(load: DatabaseLoad, limits: Settings) -> Iterator[LoadSignal]:
    sessions, most = load.active_sessions, load.max_connections
    yield LoadSignal(
        "sessions",
        "paused",
        100 * sessions / most if sessions is not None and most else None,
        limits.worker_max_db_sessions,
        f"{sessions} of {most} sessions are active, above {{limit}} %",
    )
    yield LoadSignal(
        "replica lag",
        "paused",
        load.replica_lag_seconds,
        limits.worker_max_replica_lag,
        "a replica is {figure:.0f} s behind, above {limit:g} s",
    )
    yield LoadSignal(
        "lock wait",
        "slow",
        load.lock_wait_seconds,
        limits.worker_max_lock_wait,
        "a session waits for a lock for {figure:.0f} s, above {limit:g} s",
    )
    if limits.worker_yield_to_vacuum and load.vacuumed_table:
        # a name may hold braces
        table = load.vacuumed_table.replace("{", "{{").replace("}", "}}")
        yield LoadSignal("vacuum", "slow", 1, 0, f"a vacuum is running on {table}")


@dataclass(slots=True)
class LoadThrottle:
    """A Throttle that reads the load of the host and the database every few seconds.

    `model_is_local` is called as often as the database. Raises what `queue` raises.
    """

    queue: Queue
    limits: Settings
    model_is_local: Callable[[], bool]
    look: Callable[[], HostLoad] = host_load
    clock: Callable[[], float] = time.monotonic
    own: OwnLoad = field(default_factory=OwnLoad)
    _readings: Readings = field(default_factory=Readings)
    _active_since: dict[str, float] = field(default_factory=dict)
    _decision: ThrottleDecision = FULL
    _host_known_until: float = -math.inf
    _database_known_until: float = -math.inf

    def __call__(self) -> ThrottleDecision:
        now = self.clock()
        if now >= self._host_known_until:
            self._read_database(now)
            host = self.look()
            self._readings = replace(self._readings, host=self.own.subtract_from(host, now))
            self._host_known_until = self.clock() + HOST_KNOWN_FOR
            self._decide(now)
        return self._decision

    def _read_database(self, now: float) -> None:
        if now >= self._database_known_until:
            self._readings = replace(
                self._readings, database=self.queue.load(), model_is_local=self.model_is_local()
            )
            self._database_known_until = self.clock() + DATABASE_KNOWN_FOR

    def _decide(self, now: float) -> None:
        signals = active_signals(self._readings, self.limits, self._active_since.keys())
        self._active_since = {
            signal.name: self._active_since.get(signal.name, now) for signal in signals
        }
        lasted = {name: now - since for name, since in self._active_since.items()}
        self._decision = decision(self._readings, self.limits, lasted)
        if any(
            signal.is_of_memory and lasted[signal.name] < LONGEST_PAUSE_FOR_MEMORY
            for signal in signals
        ):
            release_memory()
