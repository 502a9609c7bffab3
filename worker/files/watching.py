"""Hints that something in a directory may have changed. What has changed, only a scan tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

QUIET = 300  # milliseconds without an event, after which a hint is given
DEBOUNCE = 1000  # milliseconds from the first event to the hint at most
LOOK_EVERY = 2000  # milliseconds between two checks that the directory is still there
TRY_AGAIN_AFTER = 10.0  # seconds


class DirectoryWatch:
    """Calls `on_change` from a thread of its own after something in a directory has changed.

    There may be no hint at all: of a network mount, or where watchfiles is not installed or the
    system has no watches left. So the folder is also scanned from time to time. After an error it
    tries again.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._stop = Event()
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. The thread ends soon after."""
        self._stop.set()

    def _run(self) -> None:
        try:
            from watchfiles import watch
        except ImportError:
            return
        while not self._stop.is_set():
            with suppress(Exception):  # it is gone; the system has no watches left; …
                root, is_new = _identity(self._path), True  # it may have changed before
                for changes in watch(
                    self._path,
                    watch_filter=None,
                    debounce=DEBOUNCE,
                    step=QUIET,
                    rust_timeout=LOOK_EVERY,
                    yield_on_timeout=True,
                    stop_event=self._stop,
                    raise_interrupt=False,
                    ignore_permission_denied=True,
                ):
                    if changes or is_new:
                        self._on_change()
                    is_new = False
                    if _identity(self._path) != root:  # of which nobody sends an event
                        break
            self._stop.wait(TRY_AGAIN_AFTER)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
