"""Takes the steps of batches of a Batch API: once, or in a running worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from threading import Event

from worker.batches.clients import BatchApis
from worker.batches.options import BatchOptions
from worker.batches.serving import BatchServer
from worker.embedders.batch_api import BatchApi
from worker.embedders.registry import open_batch_api
from worker.engine.progress import Progress, RunStats
from worker.errors import Unreachable, WorkerError
from worker.operations.background import in_background
from worker.queue import AdminQueue, Scope
from worker.settings import Settings

LOOK_EVERY = 15.0  # seconds between two looks whether a step of a batch is due


@contextmanager
def batch_server(
    queue: AdminQueue, settings: Settings, scope: Scope, observer: Progress, stop: Event
) -> Iterator[BatchServer]:
    """Yield what takes the steps of the batches of a scope."""
    with closing(BatchApis(partial(_open_api, settings))) as apis:
        yield BatchServer(queue, apis, scope, batch_options(settings), observer, stop)


def _open_api(settings: Settings, model: str, width: int | None, prompt: str | None) -> BatchApi:
    return open_batch_api(model, width, settings, prompt)


def batch_options(settings: Settings) -> BatchOptions:
    """Return the options of the settings."""
    return BatchOptions(
        settings.embedding_batch_poll,
        settings.embedding_batch_tokens,
        settings.embedding_cache_mb,
    )


def serve_once(
    queue: AdminQueue, settings: Settings, scope: Scope, observer: Progress, stop: Event
) -> None:
    """Take every step of batches that is due, if the schema has batches."""
    if queue.has_batches():
        with batch_server(queue, settings, scope, _EventsOf(observer), stop) as server:
            server.step()


class _EventsOf:
    """Passes the events of batches to the observer of a run, whose statistics are its own."""

    def __init__(self, observer: Progress) -> None:
        self.pulse = observer.pulse
        self.event = observer.event

    def update(self, stats: RunStats) -> None:
        pass


def batches_served(
    settings: Settings, scope: Scope, observer: Progress, is_paused: Callable[[], bool]
) -> AbstractContextManager[None]:
    """Serve batches in a thread, except while `is_paused`, until the end of the `with`."""

    def serve(queue: AdminQueue, stop: Event) -> None:
        if not queue.has_batches():
            stop.wait()
        with batch_server(queue, settings, scope, observer, stop) as server:
            while not stop.is_set():
                if not is_paused():
                    server.step()
                stop.wait(seconds_between_looks(settings))

    def report(error: WorkerError | None, cause: str) -> None:
        if not isinstance(error, Unreachable):  # which the run reports
            observer.event("batches_interrupted", cause=cause)

    return in_background({"batches": serve}, settings, report)


def seconds_between_looks(settings: Settings) -> float:
    """Seconds between two looks."""
    return min(LOOK_EVERY, settings.embedding_batch_poll.total_seconds())
