"""Threads that serve beside a run until it ends, each with a queue of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

from worker.errors import WorkerError
from worker.operations.session import open_queue
from worker.queue import AdminQueue
from worker.settings import Settings

TRY_AGAIN = 15.0  # seconds after an error
END_WITHIN = 10.0  # seconds

Serve = Callable[[AdminQueue, Event], None]
"""Serves with a queue until the event is set."""


@contextmanager
def served_beside(
    settings: Settings, services: Mapping[str, Serve], on_error: Callable[[str], object]
) -> Iterator[None]:
    """Serve in threads, by their names, until the end of the `with`.

    One that raises an error begins again after a while. `on_error` gets the cause of each.
    """
    stop = Event()
    threads = [
        Thread(target=_kept_up, args=(serve, settings, stop, on_error), name=name, daemon=True)
        for name, serve in services.items()
    ]
    with ExitStack() as ending:
        for thread in threads:
            thread.start()
            ending.callback(thread.join, END_WITHIN)
        ending.callback(stop.set)
        yield


def _kept_up(
    serve: Serve, settings: Settings, stop: Event, on_error: Callable[[str], object]
) -> None:
    while not stop.is_set():
        try:
            with open_queue(settings) as queue:
                serve(queue, stop)
        except WorkerError as error:
            on_error(error.cause)
        except Exception as error:  # a defect: its message may hold a text
            on_error(f"a defect: {type(error).__name__}")
        stop.wait(TRY_AGAIN)
