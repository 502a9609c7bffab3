"""The process and the machine it runs on.

A figure that cannot be read is None, never zero: only Linux has /proc, older kernels have no
pressure, and a cgroup may have no limit.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MB = 2**20  # bytes
NO_LIMIT = 2**60  # bytes; how cgroups of version 1 show that there is no limit
LARGE = 2**20  # bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in glibc's malloc.h


def resident_mb() -> float:
    """The memory of this process that is in RAM now, in MB (2**20 bytes).

    Without /proc, the most it has ever been.
    """
    try:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource  # not available on Windows

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def files_to_open(wanted: int) -> int:
    """How many files this process may open. `wanted` are asked for if it may not open as many."""
    try:
        import resource
    except ImportError:  # on Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:  # below 0: as many as it likes
        soft = min(wanted, hard) if hard >= 0 else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(soft, wanted) if soft >= 0 else wanted


def return_large_blocks() -> None:
    """From now on return a block of LARGE or more to the machine as soon as it is freed (Linux with
    glibc). Otherwise glibc, once it has freed one of up to 32 MB, keeps later ones for itself: a
    worker that has had a long text in hand would keep its memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE)


def release_memory() -> None:
    """Return freed memory to the machine (Linux with glibc; elsewhere as far as Python does)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory that a cgroup uses, without cache that it can free, and its limit. In MB."""

    used: float
    limit: float


@dataclass(frozen=True, slots=True)
class HostLoad:
    """How busy the host is.

    `load`: the load average of the last minute, divided by all cores of the machine, even if a
    container may use only some. `pressure`: percent of the last ten seconds in which something
    waited for a CPU, in our container if there is one; `lasting_pressure`: of the last minute.
    `memory_mb`: of this process. `cgroup`: the fullest cgroup with a limit that contains it.
    """

    load: float | None = None
    pressure: float | None = None
    lasting_pressure: float | None = None
    memory_mb: float | None = None
    cgroup: Memory | None = None


def host_load(proc: Path = PROC, cgroups: Path = CGROUPS) -> HostLoad:
    """Read the load of the host. Raises nothing."""
    # the root of the visible cgroups is that of our container, or on some hosts that of the host
    waited = _pressure(cgroups / "cpu.pressure") or _pressure(proc / "pressure" / "cpu")
    return HostLoad(
        load=_load(proc),
        pressure=waited.get("avg10"),
        lasting_pressure=waited.get("avg60"),
        memory_mb=resident_mb(),
        cgroup=max(
            _memories(proc, cgroups), key=lambda memory: memory.used / memory.limit, default=None
        ),
    )


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What a worker reports about its host with each heartbeat.

    `rss_mb`: the memory of this process. `memory_limit_mb`: that of the fullest cgroup that
    contains it. `load`: as in HostLoad. `cpu_percent`: how busy all CPUs were since the last time.
    """

    rss_mb: float
    memory_limit_mb: float | None
    cores: int
    load: float | None
    cpu_percent: float | None


class HostMeter:
    """Reads the figures of the host, again and again."""

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._proc, self._cgroups = proc, cgroups
        self._ticks = _cpu_ticks(proc)

    def read(self) -> HostFigures:
        """Return the figures of now. Raises nothing."""
        load = host_load(self._proc, self._cgroups)
        return HostFigures(
            rss_mb=resident_mb(),
            memory_limit_mb=load.cgroup.limit if load.cgroup else None,
            cores=os.cpu_count() or 1,
            load=load.load,
            cpu_percent=self._cpu_percent(),
        )

    def _cpu_percent(self) -> float | None:
        before, self._ticks = self._ticks, _cpu_ticks(self._proc)
        if before is None or self._ticks is None or self._ticks.total <= before.total:
            return None
        busy = (self._ticks.busy - before.busy) / (self._ticks.total - before.total)
        return 100 * min(max(busy, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class _CpuTicks:
    """How long the CPUs of the host were busy since it started, and how long they ran in total."""

    busy: int
    total: int


def _cpu_ticks(proc: Path) -> _CpuTicks | None:
    words = (_text(proc / "stat") or "").partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]  # those of guests are in those of users
    idle = ticks[3] + ticks[4]  # nothing to do, or waiting for a disk
    return _CpuTicks(sum(ticks) - idle, sum(ticks))


def _load(proc: Path) -> float | None:
    if sys.platform == "darwin":
        average = os.getloadavg()[0]
    else:
        words = (_text(proc / "loadavg") or "").split()
        if not words:
            return None
        average = float(words[0])
    return average / (os.cpu_count() or 1)


def _pressure(path: Path) -> dict[str, float]:
    """The figures of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    for line in (_text(path) or "").splitlines():
        kind, *figures = line.split()
        if kind == "some":
            return {name: float(value) for name, value in (each.split("=") for each in figures)}
    return {}


def _memories(proc: Path, cgroups: Path) -> Iterator[Memory]:
    """Yield the memory of each cgroup with a limit that contains this process, nested or not."""
    for line in (_text(proc / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, names = cgroups / "memory", _VERSION_1
        elif not controllers:
            root, names = cgroups, _VERSION_2
        else:
            continue
        # of a path from outside our container, only the root exists here
        folder = root / path.strip("/")
        for cgroup in (folder, *folder.parents):
            if cgroup.is_relative_to(root) and (memory := _memory(cgroup, *names)):
                yield memory


_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
_VERSION_2 = "memory.max", "memory.current", "inactive_file"


def _memory(cgroup: Path, limit_file: str, used_file: str, cached: str) -> Memory | None:
    limit, used = _number(cgroup / limit_file), _number(cgroup / used_file)
    if not limit or used is None or limit >= NO_LIMIT:
        return None
    statistics = dict(
        line.split(" ", 1) for line in (_text(cgroup / "memory.stat") or "").splitlines()
    )
    return Memory((used - int(statistics.get(cached, 0))) / MB, limit / MB)


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:  # also if the kernel has PSI turned off
        return None
