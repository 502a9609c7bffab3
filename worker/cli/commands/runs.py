"""The commands that embed: `process`, `run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from worker.cli.commands.serve import say_where, served_here
from worker.cli.console import say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AsJson,
    BackupEvery,
    BatchSize,
    Column,
    DelayMs,
    DryRun,
    Keep,
    MaxCost,
    MaxMinutes,
    MetricsPort,
    MostJobs,
    NotifyCommand,
    ServesWeb,
    Table,
    Until,
    WebAddress,
)
from worker.cli.render.advice import advice_on
from worker.cli.render.forecast import print_forecast
from worker.cli.render.progress import show_progress
from worker.cli.render.summary import exit_code, print_summary
from worker.cli.render.unserved import report_unserved
from worker.cli.signals import stopped_by_signals
from worker.durations import parse_duration
from worker.engine.providers import Limiters
from worker.errors import SettingsError
from worker.observers.logs import Log
from worker.observers.systemd import Systemd
from worker.operations.estimate import estimate
from worker.operations.processing import Processing, RunResult, prepare, run_options
from worker.operations.serving import run_service
from worker.operations.session import open_queue
from worker.operations.stop_conditions import StopConditions, parse_percent
from worker.settings import Settings


def process(
    batch_size: BatchSize = None,
    delay_ms: DelayMs = None,
    table: Table = None,
    column: Column = None,
    limit: MostJobs = None,
    until: Until = None,
    max_minutes: MaxMinutes = None,
    max_cost: MaxCost = None,
    notify_command: NotifyCommand = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Embed all due jobs, print a summary, and exit."""
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        if dry_run:
            found = estimate(
                queue, settings, table=table, column=column, batch_size=batch_size, limit=limit
            )
            print_forecast(found, missing=False, as_json=as_json)
            return report_unserved(found.targets, settings.embedding_model)
        processing = prepare(
            queue,
            settings,
            table=table,
            column=column,
            options=run_options(settings, batch_size, delay_ms, limit),
            stop_conditions=StopConditions(parse_percent(until), max_minutes, max_cost),
            notify_command=notify_command,
        )
        result = process_visibly(processing)
        advice = [] if as_json else advice_on(result, queue)
    print_summary(result, as_json)
    code_of_targets = report_unserved(result.targets, settings.embedding_model)
    if not code_of_targets:  # otherwise that report says what to do
        say(*advice)
    return exit_code(result) or code_of_targets


def process_visibly(processing: Processing) -> RunResult:
    """Run with progress on stderr, until it ends or a signal stops it."""
    total = processing.count_jobs()
    interval = processing.settings.embedding_progress_interval
    with (
        stopped_by_signals() as stop,
        show_progress(total, interval, processing.estimate_eta) as progress,
    ):
        return processing.run(stop, progress)


def run(
    batch_size: BatchSize = None,
    delay_ms: DelayMs = None,
    table: Table = None,
    column: Column = None,
    metrics_port: MetricsPort = None,
    notify_command: NotifyCommand = None,
    backup_every: BackupEvery = None,
    keep: Keep = None,
    serve: ServesWeb = False,
    address: WebAddress = None,
) -> int:
    """Embed jobs as they become due, until stopped."""
    settings = _with_backups(load_settings(asks_model=True), backup_every, keep)
    if not settings.enable_background_embedding:
        say("ENABLE_BACKGROUND_EMBEDDING is false: `worker run` embeds nothing.")
        say("hint: `worker process` embeds all due jobs once.")
        return 0
    if address and not serve:
        raise SettingsError("--address is that of the dashboard", "Give --serve as well.")
    options = run_options(settings, batch_size, delay_ms)
    limiters = Limiters(options.limits)
    is_for_people, log = settings.worker_log_format == "console", Log.of(settings, sys.stderr)
    with (
        open_queue(settings) as queue,
        stopped_by_signals(say_so=is_for_people) as stop,
        _web(settings, address, log, limiters) if serve else nullcontext(),
    ):
        run_service(
            queue,
            settings,
            stop=stop,
            table=table,
            column=column,
            options=options,
            log=log,
            observers=[Systemd(os.environ)],
            metrics_port=metrics_port,
            notify_command=notify_command,
            source="cli",
            limiters=limiters,
        )
    return 0


@contextmanager
def _web(settings: Settings, address: str | None, log: Log, limiters: Limiters) -> Iterator[None]:
    """Serve the dashboard and the API until the end of the `with`."""
    with served_here(settings, address, log.event, limiters) as server:
        if settings.worker_log_format == "console":
            say_where(server)
        else:
            log.event("web_started", url=server.url)
        yield


def _with_backups(settings: Settings, every: str | None, keep: str | None) -> Settings:
    """Return the settings with the schedule of backups that was given."""
    if every is not None:
        settings = replace(settings, backup_every=parse_duration(every))
    if keep is None:
        return settings
    if not settings.backup_every:
        raise SettingsError("--keep needs a schedule of backups", "Give --backup-every as well.")
    return replace(settings, backup_keep=parse_duration(keep))
