"""What a worker knows of the machine, and when it steps back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from worker.engine.throttling import FULL, ThrottleDecision, ThrottleLevel
from worker.host import HostLoad, HostMeter, Memory, host_load
from worker.operations import serving
from worker.queue import DatabaseLoad, Queue
from worker.settings import Settings
from worker.throttle import load
from worker.throttle.load import LoadThrottle, Readings, active_signals, decision
from worker.throttle.own_load import OwnLoad

LIMITS = Settings(worker_max_memory_mb=800)
MB = 2**20
PRESSURE = (
    "some avg10={} avg60=3.25 avg300=1.00 total=123\nfull avg10=90.00 avg60=0 avg300=0 total=0\n"
)


@dataclass
class Machine:
    """A folder in which /proc and the cgroups of a machine lie."""

    root: Path

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def cgroup(self, folder: str, limit: str, used: int, cached: int = 0, version: int = 2) -> None:
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        self.write(f"{folder}/{names[0]}", f"{limit}\n")
        self.write(f"{folder}/{names[1]}", f"{used}\n")
        self.write(f"{folder}/memory.stat", f"anon 5\n{names[2]} {cached}\n")

    @property
    def load(self) -> HostLoad:
        return host_load(self.root / "proc", self.root / "cgroups")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# -- the machine


def test_the_cpus_are_as_busy_as_they_were_since_the_last_time(machine: Machine) -> None:
    def read(*ticks: int) -> float | None:
        machine.write("proc/stat", f"cpu  {' '.join(map(str, ticks))} 9 9\ncpu0 1 2 3\n")
        return meter.read().cpu_percent

    meter = HostMeter(machine.root / "proc", machine.root / "cgroups")
    assert read(100, 0, 50, 1000, 50, 0, 0, 0) is None
    assert read(150, 10, 60, 1020, 55, 2, 3, 0) == 75.0  # of 100 ticks, 25 were idle
    assert read(150, 10, 60, 1020, 55, 2, 3, 0) is None
    assert read(150, 10, 60, 1120, 55, 2, 3, 0) == 0.0
    assert read(0, 0, 0, 10, 0, 0, 0, 0) is None  # another machine, after a checkpoint
    machine.write("proc/stat", "intr 5\n")
    assert meter.read().cpu_percent is None


def test_the_figures_of_the_host_are_those_of_the_throttle(machine: Machine) -> None:
    machine.write("proc/loadavg", "6.00 0.50 0.10 3/174 25750\n")
    machine.write("proc/self/cgroup", "0::/\n")
    machine.cgroup("cgroups", str(512 * MB), 100 * MB)
    figures = HostMeter(machine.root / "proc", machine.root / "cgroups").read()
    assert (figures.load, figures.memory_limit_mb) == (machine.load.load, 512.0)
    assert (figures.cores, figures.rss_mb > 1) == (os.cpu_count(), True)


def test_what_cannot_be_read_is_not_zero(machine: Machine) -> None:
    load = machine.load
    assert replace(load, memory_mb=None) == HostLoad()
    assert load.memory_mb
    assert decision(Readings(load), Settings()) == FULL


def test_the_load_is_that_of_a_core_of_the_machine(machine: Machine) -> None:
    machine.write("proc/loadavg", "6.00 0.50 0.10 3/174 25750\n")
    assert machine.load.load == 6.0 / (os.cpu_count() or 1)


def test_in_a_container_its_own_pressure_counts(machine: Machine) -> None:
    machine.write("proc/pressure/cpu", PRESSURE.format("12.50"))
    assert (machine.load.pressure, machine.load.lasting_pressure) == (12.5, 3.25)
    machine.write("cgroups/cpu.pressure", PRESSURE.format("70.00"))
    assert machine.load.pressure == 70.0


@pytest.mark.parametrize(
    ("own", "folder", "version"),
    [
        ("0::/", "cgroups", 2),
        ("0::/system.slice/worker.service", "cgroups/system.slice/worker.service", 2),
        ("0::/made/outside/of/it", "cgroups", 2),
        ("3:cpuset:/\n4:memory:/docker/1\n0::/", "cgroups/memory/docker/1", 1),
        ("4:memory:/docker/1", "cgroups/memory", 1),
    ],
)
def test_the_memory_of_the_cgroup(machine: Machine, own: str, folder: str, version: int) -> None:
    machine.write("proc/self/cgroup", own + "\n")
    machine.cgroup(folder, str(512 * MB), 300 * MB, cached=100 * MB, version=version)
    assert machine.load.cgroup == Memory(used=200.0, limit=512.0)


def test_a_limit_holds_for_the_cgroups_within(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/slice/service")
    machine.cgroup("cgroups/slice/service", str(900 * MB), 100 * MB)
    machine.cgroup("cgroups/slice", str(1000 * MB), 950 * MB)
    assert machine.load.cgroup == Memory(950.0, 1000.0)


@pytest.mark.parametrize(("limit", "version"), [("max", 2), ("9223372036854771712", 1)])
def test_no_limit_is_none(machine: Machine, limit: str, version: int) -> None:
    machine.write("proc/self/cgroup", "0::/\n4:memory:/\n")
    machine.cgroup("cgroups" if version == 2 else "cgroups/memory", limit, MB, version=version)
    assert machine.load.cgroup is None


def test_a_process_does_not_take_its_own_load_for_that_of_others() -> None:
    """It keeps one of two cores busy, and after minutes the average of the machine says so."""
    seconds = iter(float(second) for second in range(10_000))
    own = OwnLoad(cpu_seconds=lambda: next(seconds), cores=2)
    for second in range(600):
        left = own.subtract_from(HostLoad(load=0.5), float(second))
    assert left.load == pytest.approx(0.0, abs=0.01)
    assert own.subtract_from(HostLoad(load=2.0), 600.0).load == pytest.approx(1.5, abs=0.01)
    assert own.subtract_from(HostLoad(), 601.0).load is None


# -- what is made of it

FIGURES: list[tuple[HostLoad | DatabaseLoad, ThrottleLevel, str]] = [
    (HostLoad(load=1.6), "slow", "load 1.6 a core, above 1.5"),
    (HostLoad(load=3.2), "paused", "load 3.2 a core, above 3"),
    (
        HostLoad(pressure=70.4),
        "slow",
        "processes wait for a CPU 70 % of the time, above 60 %",
    ),
    (HostLoad(memory_mb=812), "paused", "memory 812 MB, above 800 MB"),
    (HostLoad(cgroup=Memory(950, 1000)), "paused", "memory of the container 950 MB of 1000 MB"),
    (
        DatabaseLoad(active_sessions=85, max_connections=100),
        "paused",
        "85 of 100 sessions are active, above 80 %",
    ),
    (
        DatabaseLoad(lock_wait_seconds=12.3),
        "slow",
        "a session waits for a lock for 12 s, above 5 s",
    ),
    (DatabaseLoad(replica_lag_seconds=40), "paused", "a replica is 40 s behind, above 30 s"),
    (DatabaseLoad(vacuumed_table='"{a}"'), "slow", 'a vacuum is running on "{a}"'),
]


def readings(load: HostLoad | DatabaseLoad) -> Readings:
    return Readings(host=load) if isinstance(load, HostLoad) else Readings(database=load)


@pytest.mark.parametrize(("load", "throttle_level", "cause"), FIGURES)
def test_the_figure_is_the_cause(
    load: HostLoad | DatabaseLoad, throttle_level: ThrottleLevel, cause: str
) -> None:
    assert decision(readings(load), LIMITS) == ThrottleDecision(throttle_level, cause)


def test_at_a_limit_nothing_is_done() -> None:
    host = HostLoad(load=1.5, pressure=60, memory_mb=800, cgroup=Memory(900, 1000))
    database = DatabaseLoad(80, 100, 5.0, None, 30.0)
    assert decision(Readings(host, database), LIMITS) == FULL


def test_who_waits_for_an_api_is_no_burden_to_the_machine() -> None:
    busy = HostLoad(load=9.0, pressure=99.0)
    assert decision(Readings(busy, model_is_local=False), LIMITS) == FULL
    full = HostLoad(memory_mb=900)
    assert decision(Readings(full, model_is_local=False), LIMITS).level == "paused"


def test_a_vacuum_may_be_ignored() -> None:
    load = DatabaseLoad(vacuumed_table="docs")
    assert decision(Readings(database=load), Settings(worker_yield_to_vacuum=False)) == FULL


def test_it_goes_on_only_well_below_a_limit() -> None:
    near, well_below = (Readings(HostLoad(load=load)) for load in (1.3, 1.1))
    assert decision(near, LIMITS) == FULL
    assert decision(near, LIMITS, {"load": 0.0}).level == "slow"
    assert decision(well_below, LIMITS, {"load": 0.0}) == FULL


def test_pressure_has_to_be_gone_for_a_while() -> None:
    lull = Readings(HostLoad(pressure=0.0, lasting_pressure=55.0))
    assert not active_signals(lull, LIMITS)
    assert active_signals(lull, LIMITS, before=["pressure"])


def test_a_high_load_turns_into_a_load() -> None:
    strained = {"load": 0.0, "high load": 0.0}
    assert decision(Readings(HostLoad(load=2.5)), LIMITS, strained).level == "paused"
    assert decision(Readings(HostLoad(load=2.3)), LIMITS, strained).level == "slow"


@pytest.mark.parametrize(
    ("load", "name", "longest"),
    [
        (HostLoad(memory_mb=812), "memory", 30),
        (HostLoad(load=9.0), "high load", 600),
        (DatabaseLoad(replica_lag_seconds=3600), "replica lag", 600),
    ],
)
def test_no_hold_is_for_ever(load: HostLoad | DatabaseLoad, name: str, longest: int) -> None:
    assert decision(readings(load), LIMITS, {name: longest - 1}).level == "paused"
    thin = decision(readings(load), LIMITS, {name: longest})
    assert thin.level == "slow"
    assert f"pausing for {longest} s did not help" in str(thin.cause)


# -- over time


@dataclass
class World:
    """A machine and its database, whose clock stands until somebody moves it."""

    host: HostLoad = field(default_factory=HostLoad)
    database: DatabaseLoad = field(default_factory=DatabaseLoad)
    now: float = 1000.0
    looked_at_host: int = 0
    looked_at_database: int = 0

    def look(self) -> HostLoad:
        self.looked_at_host += 1
        return self.host

    def load(self) -> DatabaseLoad:
        self.looked_at_database += 1
        return self.database


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def governed(world: World) -> LoadThrottle:
    return LoadThrottle(
        queue=cast(Queue, world),
        limits=LIMITS,
        model_is_local=lambda: True,
        look=world.look,
        clock=lambda: world.now,
        own=OwnLoad(cpu_seconds=lambda: 0.0),
    )


def test_it_looks_only_every_so_often(world: World, governed: LoadThrottle) -> None:
    for _ in range(201):
        governed()
        world.now += 0.1
    assert world.looked_at_host == pytest.approx(11, abs=1)
    assert world.looked_at_database == pytest.approx(3, abs=1)


def test_memory_is_given_back_before_it_goes_on(
    world: World, governed: LoadThrottle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_back: list[float] = []
    monkeypatch.setattr(load, "release_memory", lambda: gave_back.append(world.now))
    world.host = HostLoad(memory_mb=900)
    assert governed().level == "paused"
    assert gave_back
    world.now += 31
    assert governed().level == "slow"
    world.host = HostLoad(memory_mb=700)  # not well below
    world.now += 31
    assert governed().level == "slow"
    world.host = HostLoad(memory_mb=600)
    world.now += 3
    assert governed() == FULL
    world.host = HostLoad(memory_mb=900)
    world.now += 3
    assert governed().level == "paused", "it may help again"


def test_the_database_is_waited_for(world: World, governed: LoadThrottle) -> None:
    world.database = DatabaseLoad(active_sessions=90, max_connections=100)
    gears = []
    for _ in range(100):
        gears.append(governed().level)
        world.now += 10
    assert gears == ["paused"] * 60 + ["slow"] * 40
    world.database = DatabaseLoad(active_sessions=60, max_connections=100)
    assert governed() == FULL


@pytest.mark.parametrize(
    ("model", "is_here"),
    [
        ("local:wordllama-256", True),
        ("sentence-transformers:all-MiniLM-L6-v2", True),
        ("ollama:all-minilm", False),
    ],
)
def test_a_model_that_runs_in_the_worker_loads_its_host(
    model: str, is_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "models_in_use", lambda queue, scope: [model])
    unused: Any = None
    assert serving._loads_this_host(unused, unused) is is_here
