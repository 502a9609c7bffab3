"""The part of the load of the host that this process causes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.host import HostLoad

MINUTE = 60.0  # seconds; the period of the load average


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
