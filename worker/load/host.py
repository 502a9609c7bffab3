"""How busy the machine is, and how much of its memory a worker may still take.

What cannot be read is None and never zero: there is no /proc but on Linux, no pressure in older
kernels, no limit in a cgroup that has none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.host import resident_mb

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MB = 2**20  # bytes
NO_LIMIT = 2**60  # bytes; how cgroups of version 1 say so


@dataclass(frozen=True, slots=True)
class Memory:
    """What a cgroup has in use, without what it would give up at once, and may use. In MB."""

    used: float
    limit: float


@dataclass(frozen=True, slots=True)
class HostLoad:
    """How busy the machine is.

    `load`: the average of the last minute for each core of the machine, since that is what it is
    counted for, whatever part of them is ours. `pressure`: percent of the last ten seconds in which
    something waited for a CPU, in our container where there is one; `lasting_pressure`: of the last
    minute. `memory_mb`: of this process. `cgroup`: of those that hold it, the fullest with a limit.
    """

    load: float | None = None
    pressure: float | None = None
    lasting_pressure: float | None = None
    memory_mb: float | None = None
    cgroup: Memory | None = None


def host_load(proc: Path = PROC, cgroups: Path = CGROUPS) -> HostLoad:
    """Look at the machine. Raises nothing."""
    # at the root of what we see of the cgroups there is a container's own, and on some hosts theirs
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
    """Of each cgroup with a limit that this process is in: a limit also holds for those within."""
    for line in (_text(proc / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, names = cgroups / "memory", _VERSION_1
        elif not controllers:
            root, names = cgroups, _VERSION_2
        else:
            continue
        # of a path from outside of a container nothing is there but its root
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
    except OSError:  # also PSI that is there and switched off
        return None
