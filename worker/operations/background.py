"""Work beside a run, in threads with connections of their own."""

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
"""Works until the event is set."""


@contextmanager
def in_background(
    services: Mapping[str, Serve],
    settings: Settings,
    on_error: Callable[[WorkerError | None, str], None],
) -> Iterator[None]:
    """Run each service in a thread of its name, until the end of the `with`.

    One that raises begins again after TRY_AGAIN. `on_error` gets the error, None for a defect, and
    its cause.
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
    serve: Serve,
    settings: Settings,
    stop: Event,
    on_error: Callable[[WorkerError | None, str], None],
) -> None:
    """Serve with a queue of its own until `stop` is set, and begin again after each error."""
    while not stop.is_set():
        try:
            with open_queue(settings) as queue:
                serve(queue, stop)
        except WorkerError as error:
            on_error(error, error.cause)
        except Exception as error:  # a defect: its message may hold what was in a file
            on_error(None, f"a defect: {type(error).__name__}")
        stop.wait(TRY_AGAIN)
