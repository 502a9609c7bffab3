"""Who hears of a run beside the one at the terminal: people, metrics, systemd, the log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from worker.engine.progress import Progress
from worker.queue import OperatorQueue, Scope
from worker.settings import Settings
from worker.telemetry.audience import Audience
from worker.telemetry.channels import channels_of
from worker.telemetry.logs import Log
from worker.telemetry.metrics import Metrics, served
from worker.telemetry.notify import Notifier
from worker.telemetry.systemd import Systemd
from worker.telemetry.watches import EveryMinute, Failures, OtherModels


@contextmanager
def people_told(
    progress: Progress, queue: OperatorQueue, settings: Settings, scope: Scope, command: str | None
) -> Iterator[Audience]:
    """`progress`, and the people who are told of what they should know."""
    channels = channels_of(settings.notify_webhook_url, command or settings.notify_command)
    with Notifier(queue, scope, channels, progress) as notifier:
        audience = Audience(progress, notifier)
        audience.add(Failures(settings.notify_failures, audience.event))
        yield audience


@contextmanager
def service_told(
    queue: OperatorQueue, settings: Settings, scope: Scope, command: str | None, port: int | None
) -> Iterator[Audience]:
    """All who hear of a service. Raises SettingsError if its metrics cannot be served."""
    port = port or settings.worker_metrics_port
    metrics = Metrics()
    with (
        served(metrics, port, settings.worker_metrics_host) if port else nullcontext(),
        people_told(Log.of(settings, sys.stderr), queue, settings, scope, command) as audience,
    ):
        if port:
            audience.add(metrics)
        audience.add(Systemd(os.environ))
        audience.add(EveryMinute(queue, audience.event))
        audience.add(OtherModels(queue, scope, audience.event))
        yield audience
