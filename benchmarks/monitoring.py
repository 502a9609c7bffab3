"""What the integrity monitor costs writers, if each check begins when the last one has ended."""

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
    """Check the vectors of a database in a thread. Raises RuntimeError if it checked none."""
    stop = Event()
    monitor = IntegrityMonitor(
        Settings(verify_every=timedelta(milliseconds=1)), CompositeObserver()
    )

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
        if not any(check.checked_at for check in queue.checks()):
            raise RuntimeError("no check has ended")


def beside_monitor(database: Database, measure: Callable[[], float]) -> float:
    """Measure something beside the monitor."""
    with monitored(database):
        return measure()
