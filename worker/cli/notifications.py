"""The observers of a run: log, metrics, systemd, and notifications to people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from worker.engine.progress import Progress
from worker.observers.channels import channels_of
from worker.observers.composite import CompositeObserver
from worker.observers.logs import Log
from worker.observers.metrics import Metrics, served
from worker.observers.notify import Notifier
from worker.observers.periodic_checks import EveryMinute, Failures, OtherModels
from worker.observers.systemd import Systemd
from worker.queue import AdminQueue, Scope
from worker.settings import Settings


@contextmanager
def notifying_observer(
    progress: Progress, queue: AdminQueue, settings: Settings, scope: Scope, command: str | None
) -> Iterator[CompositeObserver]:
    """Yield an observer that passes events to `progress` and notifies people."""
    channels = channels_of(settings.notify_webhook_url, command or settings.notify_command)
    with Notifier(queue, scope, channels, progress) as notifier:
        observer = CompositeObserver(progress, notifier)
        observer.add(Failures(settings.notify_failures, observer.event))
        yield observer


@contextmanager
def service_observer(
    queue: AdminQueue, settings: Settings, scope: Scope, command: str | None, port: int | None
) -> Iterator[CompositeObserver]:
    """Yield the observer of a service: log, metrics, systemd and notifications.

    Raises SettingsError if its metrics cannot be served.
    """
    port = port or settings.worker_metrics_port
    metrics = Metrics()
    with (
        served(metrics, port, settings.worker_metrics_host) if port else nullcontext(),
        notifying_observer(
            Log.of(settings, sys.stderr), queue, settings, scope, command
        ) as observer,
    ):
        if port:
            observer.add(metrics)
        observer.add(Systemd(os.environ))
        observer.add(EveryMinute(queue, observer.event))
        observer.add(OtherModels(queue, scope, observer.event))
        yield observer
