"""The process and the machine it runs on."""

from __future__ import annotations

import ctypes
import gc
import os
import sys


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


def release_memory() -> None:
    """Return freed memory to the machine (Linux with glibc; elsewhere as far as Python does)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
