"""The observers of a run: that of the caller, notifications, and traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.engine.progress import Progress
from worker.observers.channels import open_channels
from worker.observers.composite import CompositeObserver
from worker.observers.notify import Notifier
from worker.observers.periodic_checks import Failures
from worker.observers.tracing import traced
from worker.queue import AdminQueue, Scope
from worker.settings import Settings


@contextmanager
def notifying_observer(
    observer: Progress, queue: AdminQueue, settings: Settings, scope: Scope, command: str | None
) -> Iterator[CompositeObserver]:
    """Yield an observer that passes events to `observer`, notifies people, and sends traces."""
    channels = open_channels(settings.notify_webhook_url, command or settings.notify_command)
    with Notifier(queue, scope, channels, observer) as notifier:
        composite = CompositeObserver(observer, notifier)
        composite.add(Failures(settings.notify_failures, composite.event))
        with traced(composite, observer.event):
            yield composite
