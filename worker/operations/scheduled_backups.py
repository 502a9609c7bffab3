"""Makes backups on a schedule while a worker runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event

from worker.engine.progress import Progress
from worker.errors import Unreachable, WorkerError
from worker.operations.background import in_background
from worker.operations.backup import BackupRequest, MadeBackup, make_backup
from worker.queue import AdminQueue, CallSource, KnownBackup
from worker.safekeeping.locations import destination_of, open_storage
from worker.safekeeping.parts import check_installed
from worker.settings import Settings

LOOK_EVERY = 15.0  # seconds between two looks whether a backup is due


def check_schedule(settings: Settings) -> None:
    """Raise SettingsError if no backup can be made for want of a package or a setting."""
    check_installed()
    open_storage(destination_of(settings), settings)


def backups_served(
    settings: Settings,
    every: timedelta,
    observer: Progress,
    is_paused: Callable[[], bool],
    source: CallSource,
) -> AbstractContextManager[None]:
    """Make the backups that are due, in a thread, until the end of the `with`.

    `observer` is called by that thread. Raises SettingsError if none can be made.
    """
    check_schedule(settings)
    request = BackupRequest(destination_of(settings), every=every, keep=settings.backup_keep)
    schedule = ScheduledBackups(settings, request, observer, is_paused, source)
    return in_background({"backup": schedule.serve}, settings, schedule.report_error)


@dataclass(slots=True)
class ScheduledBackups:
    """Makes a backup whenever one is due and no other worker makes it; none while `is_paused`.

    A backup that is interrupted, by the end of the worker or a pause, is continued by the next
    worker that looks. Reports `backup_completed`, `backup_failed` and `backups_seen`; an outage of
    the database is none of them: the run reports that.
    """

    settings: Settings
    request: BackupRequest
    observer: Progress
    is_paused: Callable[[], bool]
    source: CallSource
    _seen: tuple[datetime | None, int] | None = None
    _reported: str | None = None
    """The cause of the last failure that this worker reported or found, until there is none."""

    def serve(self, queue: AdminQueue, stop: Event) -> None:
        """Look from time to time whether a backup is due, until `stop` is set."""
        while not stop.is_set():
            latest = self._look(queue)
            if not self.is_paused() and self._may_be_due(queue, latest):
                self._back_up(queue, stop)
                self._look(queue)
            stop.wait(LOOK_EVERY)

    def report_error(self, error: WorkerError | None, cause: str) -> None:
        """Report why no backup is made, unless the database is away or it was reported before."""
        if isinstance(error, Unreachable) or cause == self._reported:
            return
        self._reported = cause
        self.observer.event(
            "backup_failed",
            destination=str(self.request.destination),
            cause=cause,
            hint=(error and error.hint) or "It is tried again.",
        )

    def _look(self, queue: AdminQueue) -> KnownBackup | None:
        """Return the latest backup, and report what is new about them all.

        A failure that another worker has reported is not reported again.
        """
        known = [
            backup
            for backup in queue.backups()
            if backup.destination == str(self.request.destination) and backup.only_table is None
        ]
        latest = known[-1] if known else None
        complete = [backup.finished_at for backup in known if backup.state == "complete"]
        completed_at = complete[-1] if complete else None
        failures = latest.failures if latest else 0
        if (completed_at, failures) != self._seen:
            self.observer.event(
                "backups_seen",
                destination=str(self.request.destination),
                completed_at=completed_at.isoformat() if completed_at else None,
                failures=failures,
            )
        if latest and failures:
            self._reported = latest.error_message
        elif self._seen and self._seen[1]:
            self._reported = None
        self._seen = (completed_at, failures)
        return latest

    def _may_be_due(self, queue: AdminQueue, latest: KnownBackup | None) -> bool:
        """Whether it is worth asking for a backup: nothing is watched, or the last one is new."""
        if not queue.targets():
            return False
        if latest is None or latest.state != "complete" or not latest.finished_at:
            return True
        return queue.clock() - latest.finished_at >= (self.request.every or timedelta(0))

    def _back_up(self, queue: AdminQueue, stop: Event) -> None:
        """Make a backup, if it is due and no other worker makes it."""
        try:
            made = make_backup(
                queue,
                self.settings,
                self.request,
                stop=_Interruption(stop, self.is_paused),
                source=self.source,
            )
        except WorkerError as error:
            self.report_error(error, error.cause)
            return
        if made and made.state != "unfinished":
            self._report_completed(made)

    def _report_completed(self, made: MadeBackup) -> None:
        self.observer.event(
            "backup_completed",
            destination=made.destination,
            backup=made.name,
            rows=made.rows,
            bytes=made.bytes,
            seconds=made.seconds,
            left_out=len(made.problems),
            deleted=len(made.deleted),
        )
        if made.problems:
            left_out = "; ".join(f"{name}: {why}" for name, why in made.problems.items())
            self.report_error(None, f"not all vectors are in it: {left_out}")
        else:
            self._reported = None


class _Interruption(Event):
    """Set as soon as the worker stops or is paused."""

    def __init__(self, stop: Event, is_paused: Callable[[], bool]) -> None:
        super().__init__()
        self._stop = stop
        self._is_paused = is_paused

    def is_set(self) -> bool:
        return self._stop.is_set() or self._is_paused()
