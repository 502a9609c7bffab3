"""The observers of a run: whoever starts it, and those that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from worker.engine.progress import Progress
from worker.observers.channels import channels_of
from worker.observers.composite import CompositeObserver
from worker.observers.metrics import Metrics, served
from worker.observers.notify import Notifier
from worker.observers.periodic_checks import EveryMinute, Failures, OtherModels
from worker.queue import AdminQueue, Scope
from worker.settings import Settings


@contextmanager
def notifying_observer(
    observer: Progress, queue: AdminQueue, settings: Settings, scope: Scope, command: str | None
) -> Iterator[CompositeObserver]:
    """Yield an observer that passes events to `observer` and notifies people."""
    channels = channels_of(settings.notify_webhook_url, command or settings.notify_command)
    with Notifier(queue, scope, channels, observer) as notifier:
        everybody = CompositeObserver(observer, notifier)
        everybody.add(Failures(settings.notify_failures, everybody.event))
        yield everybody


@contextmanager
def service_observer(
    log: Progress,
    others: Sequence[Progress],
    queue: AdminQueue,
    settings: Settings,
    scope: Scope,
    command: str | None,
    port: int | None,
) -> Iterator[CompositeObserver]:
    """Yield the observer of a service: those that are given, metrics, and notifications.

    Raises SettingsError if the metrics cannot be served.
    """
    port = port or settings.worker_metrics_port
    metrics = Metrics()
    with (
        served(metrics, port, settings.worker_metrics_host) if port else nullcontext(),
        notifying_observer(log, queue, settings, scope, command) as everybody,
    ):
        if port:
            everybody.add(metrics)
        for observer in others:
            everybody.add(observer)
        everybody.add(EveryMinute(queue, everybody.event))
        everybody.add(OtherModels(queue, scope, everybody.event))
        yield everybody
