"""What a running worker does besides embedding: files, checks of stored vectors, backups,
batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from worker.engine.pipeline import Pipeline
from worker.engine.progress import Progress
from worker.observers.composite import CompositeObserver
from worker.observers.relay import Relay
from worker.operations.background import in_background
from worker.operations.batch_serving import batches_served
from worker.operations.files import FILES
from worker.operations.integrity import IntegrityMonitor
from worker.operations.reading import files_served
from worker.operations.scheduled_backups import backups_served
from worker.queue import CallSource
from worker.settings import Settings


@contextmanager
def side_work(
    pipeline: Pipeline, settings: Settings, observer: CompositeObserver, source: CallSource
) -> Iterator[None]:
    """Do all of it in threads, unless the run is paused, until the end of the `with`.

    `observer` gets their events in the thread of the run. Raises SettingsError if the backups that
    the settings ask for cannot be made.
    """
    relay = Relay(observer.event)
    observer.add(relay)
    try:
        with (
            _files(pipeline, settings, relay.entrance),
            _checks(pipeline, settings, relay.entrance),
            _backups(pipeline, settings, relay.entrance, source),
            batches_served(settings, pipeline.scope, relay.entrance, lambda: _is_paused(pipeline)),
        ):
            yield
    finally:
        relay.pulse()


def _files(
    pipeline: Pipeline, settings: Settings, observer: Progress
) -> AbstractContextManager[None]:
    """Scan and read files, if their texts are in the scope of the run."""
    if pipeline.scope.table not in (None, FILES):
        return nullcontext()
    return files_served(settings, observer, lambda: _is_paused(pipeline))


def _checks(
    pipeline: Pipeline, settings: Settings, observer: Progress
) -> AbstractContextManager[None]:
    """Check stored vectors, and repair them, if the settings have an interval."""
    if not settings.verify_every:
        return nullcontext()
    monitor = IntegrityMonitor(
        settings,
        settings.verify_every,
        observer,
        is_idle=lambda: pipeline.activity.state != "working",
        is_paused=lambda: _is_paused(pipeline),
    )
    return in_background(
        {"check": monitor.serve},
        settings,
        lambda _, cause: observer.event("checks_interrupted", cause=cause),
    )


def _backups(
    pipeline: Pipeline, settings: Settings, observer: Progress, source: CallSource
) -> AbstractContextManager[None]:
    """Make backups, if the settings have a schedule."""
    if not settings.backup_every:
        return nullcontext()
    return backups_served(
        settings, settings.backup_every, observer, lambda: _is_paused(pipeline), source
    )


def _is_paused(pipeline: Pipeline) -> bool:
    return pipeline.decision.level == "paused"
