"""Keys that are pressed while a command runs."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keys() -> Iterator[Callable[[str, float], bool]]:
    """Yield a function that waits some seconds for a key, and returns whether it was pressed.

    Keys are not echoed. The terminal is restored at the end, also after an error.
    """
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios  # not available on Windows
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda key, seconds: _is_pressed(terminal, key, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def _no_key(key: str, seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_pressed(terminal: int, key: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while select.select([terminal], [], [], max(until - time.monotonic(), 0))[0]:
        typed = os.read(terminal, 1024)
        if not typed or key.encode() in typed:
            return True
    return False
