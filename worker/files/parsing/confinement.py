"""What a parser process gives up before it reads a file.

Memory and CPU time are limited, no file can be written, no memory is dumped after a crash, and the
signals that end a worker do not end it: the worker does. Where a system lacks one of these, it is
left out.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from math import ceil

from worker.files.parsing.options import MB, ParseOptions

if sys.platform != "win32":
    import resource

FIRST_TO_END = "1000"  # how Linux marks a process that it is to end first when memory runs out


def confine(options: ParseOptions) -> None:
    """Limit this process, for as long as it lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _be_the_first_to_end()
    if sys.platform != "win32":
        # Of 0 bytes, Linux would pass the dump to a program, such as apport, if it has one for it.
        _limit(resource.RLIMIT_CORE, 1)
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_AS, options.memory_mb * MB)


def limit_cpu_time(options: ParseOptions) -> None:
    """Limit the CPU time of the next file, in case that the worker is gone and cannot end this."""
    if sys.platform != "win32":
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = usage.ru_utime + usage.ru_stime
        _limit(resource.RLIMIT_CPU, ceil(used + options.seconds) + 1, may_be_raised=True)


def end_this_process() -> None:
    """End this process at once, also while C code runs."""
    signal.raise_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def _limit(what: int, most: int, may_be_raised: bool = False) -> None:
    """Set a limit, or a lower one that is there already."""
    _, highest = resource.getrlimit(what)
    if highest != resource.RLIM_INFINITY:
        most = min(most, highest)
    with suppress(ValueError, OSError):  # macOS has no limit of the address space
        resource.setrlimit(what, (most, highest if may_be_raised else most))


def _be_the_first_to_end() -> None:
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # only Linux has it
        score.write(FIRST_TO_END)
