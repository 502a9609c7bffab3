"""What the integrity monitor costs writers while it checks a large table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread

from benchmarks.database import Database
from worker.observers.composite import CompositeObserver
from worker.operations.integrity import IntegrityMonitor
from worker.settings import Settings


@contextmanager
def monitored(database: Database) -> Iterator[None]:
    """Check the vectors of a database in a thread.

    Raises RuntimeError unless it checks from the beginning to the end.
    """
    stop = Event()
    monitor = IntegrityMonitor(Settings(), timedelta(hours=1), CompositeObserver())

    def serve() -> None:
        with database.queue() as queue:
            monitor.serve(queue, stop)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    with database.queue() as queue:
        if not any(check.looked_to for check in queue.checks()):
            raise RuntimeError("the check was not under way all the time")


def beside_monitor(database: Database, measure: Callable[[], float]) -> float:
    """Measure something beside the monitor."""
    with monitored(database):
        return measure()
