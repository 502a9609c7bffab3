"""Reads how busy the host is, and how much of its memory a worker may still take.

A figure that cannot be read is None, never zero: only Linux has /proc, older kernels have no
pressure, and a cgroup may have no limit.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from worker.host import resident_mb

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MB = 2**20  # bytes
MINUTE = 60.0  # seconds; the period of the load average
NO_LIMIT = 2**60  # bytes; how cgroups of version 1 show that there is no limit


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


@dataclass(slots=True)
class OwnLoad:
    """The part of the load that this process causes.

    Otherwise a worker would slow down because of its own load, find the host idle, speed up, and
    slow down again.
    """

    cpu_seconds: Callable[[], float] = time.process_time
    """CPU time that the process has used so far, on all cores."""
    cores: int = os.cpu_count() or 1
    average: float = 0.0
    """How many cores it kept busy, averaged like the load of the last minute."""
    _taken: float | None = None
    _at: float = 0.0

    def subtract_from(self, host: HostLoad, now: float) -> HostLoad:
        """Return `host` without our own load. `now` is a time of a monotonic clock."""
        taken = self.cpu_seconds()
        if self._taken is not None and now > self._at:
            fades = math.exp((self._at - now) / MINUTE)
            busy = (taken - self._taken) / (now - self._at)
            self.average = fades * self.average + (1 - fades) * busy
        self._taken, self._at = taken, now
        if host.load is None:
            return host
        return replace(host, load=max(host.load - self.average / self.cores, 0.0))


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
