"""The process and the machine it runs on."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

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
