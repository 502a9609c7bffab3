"""The process and the machine it runs on."""

from __future__ import annotations

import ctypes
import gc
import os
import sys


def resident_mb() -> float:
    """The memory of this process that is in RAM now, in MB (2**20 bytes).

    Where there is no /proc, the most it ever was.
    """
    try:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource  # which Windows lacks

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def give_back_memory() -> None:
    """Return to the machine what the process has freed (Linux with glibc; elsewhere as it can)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
