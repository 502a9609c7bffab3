"""Backups that running workers make on a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import isnan
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.conftest import Database, eventually, rows, value
from tests.integration.jobs import claim, complete, insert
from tests.integration.runs import Log
from worker.errors import BackupError, SettingsError, Unreachable
from worker.observers.metrics import Metrics
from worker.observers.notify import NOTIFIED
from worker.observers.relay import Relay
from worker.operations import background, backup_run, scheduled_backups
from worker.operations.backup import BackupRequest, make_backup
from worker.operations.scheduled_backups import ScheduledBackups, backups_served, check_schedule
from worker.queue import AdminQueue, KnownBackup
from worker.queue.postgres import PostgresQueue
from worker.safekeeping.directory import Directory
from worker.safekeeping.locations import parse_destination
from worker.settings import Settings

LONG = 20.0  # seconds; who waits for an event that long waits for one that does not come
EVERY = timedelta(hours=4)


@dataclass
class Schedule:
    """Workers that make backups of the same database to the same place."""

    url: str
    place: Path
    queue: AdminQueue
    log: Log = field(default_factory=Log)
    is_paused: Callable[[], bool] = lambda: False

    @property
    def settings(self) -> Settings:
        return Settings(database_url=self.url, backup_to=str(self.place))

    def request(self) -> BackupRequest:
        return BackupRequest(parse_destination(str(self.place)), every=EVERY)

    def worker(self) -> ScheduledBackups:
        return ScheduledBackups(self.settings, self.request(), self.log, self.is_paused, "cli")

    @contextmanager
    def running(self, workers: int = 1) -> Iterator[Event]:
        """What is done inside happens while so many workers run. Yields what stops them."""
        stop = Event()
        with ExitStack() as ending:
            for _ in range(workers):
                queue = ending.enter_context(PostgresQueue(self.url, "tests"))
                thread = Thread(target=self.worker().serve, args=(queue, stop))
                thread.start()
                ending.callback(self._joined, thread)
            ending.callback(stop.set)
            yield stop

    @staticmethod
    def _joined(thread: Thread) -> None:
        thread.join(LONG)
        assert not thread.is_alive()

    @property
    def known(self) -> list[KnownBackup]:
        return self.queue.backups()

    def has(self, *states: str) -> bool:
        return [backup.state for backup in self.known] == list(states)

    def is_released(self) -> bool:
        expires = self.known[0].lease_expires_at
        return expires is not None and expires <= self.queue.clock()

    def has_failed(self, times: int) -> bool:
        return self.known[0].failures >= times

    @property
    def manifests(self) -> list[Path]:
        return sorted(self.place.glob("daily/*/manifest.json"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduled_backups, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(background, "TRY_AGAIN", 0.1)


@pytest.fixture
def schedule(docs: Database, queue: AdminQueue, database_url: str, tmp_path: Path) -> Schedule:
    insert(docs, 30)
    complete(queue, claim(queue))
    return Schedule(database_url, tmp_path / "backups", queue)


def let_pass(db: Database, time: str) -> None:
    """What time does to all backups."""
    db.execute(
        "update embedding_backups set started_at = started_at - %(time)s::interval,"
        " finished_at = finished_at - %(time)s::interval",
        {"time": time},
    )


def hold_the_first_part(monkeypatch: pytest.MonkeyPatch) -> tuple[Event, Event]:
    """Let a backup stand still at its first part. Returns when it does, and what lets it go on."""
    arrived, let_go = Event(), Event()
    put = Directory.put

    def held(self: Directory, name: str, path: Path) -> None:
        arrived.set()
        let_go.wait(LONG)
        put(self, name, path)

    monkeypatch.setattr(Directory, "put", held)
    return arrived, let_go


# -- one of all


def test_of_two_workers_one_makes_the_backup(schedule: Schedule, docs: Database) -> None:
    with schedule.running(workers=2):
        eventually(lambda: schedule.has("complete"), LONG)
        eventually(lambda: len(schedule.log.of("backup_completed")) == 1, LONG)
        let_pass(docs, "4 hours 1 minute")
        eventually(lambda: schedule.has("complete", "complete"), LONG)
    [first, _] = schedule.log.of("backup_completed")
    assert (first["rows"], first["left_out"]) == (30, 0)
    assert len(schedule.manifests) == 2
    assert rows(docs, "select source, event from embedding_audit where event ~ 'backup'") == [
        ("cli", "backup_completed"),
        ("cli", "backup_completed"),
    ]


def test_nothing_is_backed_up_before_something_is_watched(
    schedule: Schedule, docs: Database
) -> None:
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    with schedule.running():
        eventually(lambda: bool(schedule.log.of("backups_seen")), LONG)
        docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
        eventually(lambda: schedule.has("complete"), LONG)
    assert not schedule.log.of("backup_failed")


def test_a_backup_by_hand_counts_for_the_schedule(schedule: Schedule, docs: Database) -> None:
    backup = schedule.queue.begin_backup(
        str(schedule.request().destination), "by hand", timedelta(minutes=5)
    )
    assert backup
    schedule.queue.end_backup(backup, 1, 1)
    with schedule.running():
        eventually(lambda: bool(schedule.log.of("backups_seen")), LONG)
    assert schedule.has("complete")
    assert not schedule.manifests


# -- pauses and ends


def test_a_paused_worker_makes_none_and_goes_on_later(schedule: Schedule) -> None:
    paused = Event()
    paused.set()
    schedule.is_paused = paused.is_set
    with schedule.running():
        eventually(lambda: bool(schedule.log.of("backups_seen")), LONG)
        assert schedule.known == []
        paused.clear()
        eventually(lambda: schedule.has("complete"), LONG)


def test_a_pause_interrupts_a_backup_and_its_end_continues_it(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_run, "MOST_OF_A_PART", 1)
    arrived, let_go = hold_the_first_part(monkeypatch)
    paused = Event()
    schedule.is_paused = paused.is_set
    with schedule.running():
        assert arrived.wait(LONG)
        paused.set()
        let_go.set()
        name = schedule.known[0].name
        eventually(schedule.is_released, LONG)
        assert not schedule.manifests
        paused.clear()
        eventually(lambda: schedule.has("complete"), LONG)
    assert schedule.known[0].name == name
    assert len(schedule.log.of("backup_completed")) == 1


def test_a_worker_that_stops_leaves_its_backup_to_another(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_run, "MOST_OF_A_PART", 1)
    arrived, let_go = hold_the_first_part(monkeypatch)
    with schedule.running() as stop:
        assert arrived.wait(LONG)
        stop.set()
        let_go.set()
    assert schedule.has("running")
    [unfinished] = schedule.known
    with schedule.running():
        eventually(lambda: schedule.has("complete"), LONG)
    assert schedule.known[0].name == unfinished.name


def test_stopping_waits_for_no_destination(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot end is left behind when the process ends."""
    monkeypatch.setattr(background, "END_WITHIN", 0.5)
    arrived, let_go = hold_the_first_part(monkeypatch)
    with backups_served(schedule.settings, EVERY, schedule.log, lambda: False, "cli"):
        assert arrived.wait(LONG)
    assert not schedule.manifests
    let_go.set()
    eventually(lambda: schedule.has("complete") or schedule.is_released(), LONG)


# -- failures


def test_a_destination_that_vanishes_and_returns(schedule: Schedule, docs: Database) -> None:
    schedule.place.write_text("no directory")
    with schedule.running(workers=2):
        eventually(lambda: schedule.has("failed"), LONG)
        eventually(lambda: bool(schedule.log.of("backup_failed")), LONG)
        for failures in (2, 3):
            let_pass(docs, "5 minutes")
            eventually(partial(schedule.has_failed, failures), LONG)
        schedule.place.unlink()
        let_pass(docs, "10 minutes")
        eventually(lambda: schedule.has("complete"), LONG)
        eventually(lambda: schedule.log.of("backups_seen")[-1]["failures"] == 0, LONG)
        schedule.place.rename(schedule.place.with_name("elsewhere"))
        schedule.place.write_text("no directory again")
        let_pass(docs, "5 hours")
        eventually(lambda: schedule.has("complete", "failed"), LONG)
        eventually(lambda: len(schedule.log.of("backup_failed")) >= 2, LONG)
    failed = schedule.log.of("backup_failed")
    assert len(failed) <= 4  # each of both workers may be the first to see it
    assert all(each["destination"] == str(schedule.place) for each in failed)
    assert all(each["hint"] for each in failed)


def test_the_same_failure_is_reported_once(
    schedule: Schedule, docs: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule.place.write_text("no directory")
    with schedule.running():
        eventually(lambda: bool(schedule.log.of("backup_failed")), LONG)
        for failures in (2, 3, 4):
            let_pass(docs, "9 minutes")
            eventually(partial(schedule.has_failed, failures), LONG)
    assert len(schedule.log.of("backup_failed")) == 1
    with schedule.running():  # a worker that starts later
        let_pass(docs, "20 minutes")
        eventually(partial(schedule.has_failed, 5), LONG)
    assert len(schedule.log.of("backup_failed")) == 1


def test_what_fails_before_a_backup_begins_is_reported_once(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def fail(*_: object, **__: object) -> None:
        nonlocal tried
        tried += 1
        raise BackupError("no key", "Set one.")

    monkeypatch.setattr(scheduled_backups, "make_backup", fail)
    with schedule.running():
        eventually(lambda: tried > 5, LONG)
    [failed] = schedule.log.of("backup_failed")
    assert (failed["cause"], failed["hint"]) == ("no key", "Set one.")


def test_a_defect_does_not_end_the_schedule(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = make_backup
    errors: list[Exception] = [KeyError("what a file says"), Unreachable("gone", "Wait.")]

    def fail_twice(*given: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return usual(*given, **named)

    monkeypatch.setattr(scheduled_backups, "make_backup", fail_twice)
    with backups_served(schedule.settings, EVERY, schedule.log, lambda: False, "cli"):
        eventually(lambda: schedule.has("complete"), LONG)
    assert [failed["cause"] for failed in schedule.log.of("backup_failed")] == [
        "a defect: KeyError"
    ]


def test_a_column_that_is_left_out_is_reported(schedule: Schedule, docs: Database) -> None:
    docs.execute("create table notes (id integer primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    docs.execute("drop table notes")
    with schedule.running():
        eventually(lambda: bool(schedule.log.of("backup_completed")), LONG)
        let_pass(docs, "5 hours")
        eventually(lambda: len(schedule.log.of("backup_completed")) == 2, LONG)
    assert [made["left_out"] for made in schedule.log.of("backup_completed")] == [1, 1]
    [failed] = schedule.log.of("backup_failed")
    assert "notes.embedding" in failed["cause"]


@pytest.mark.parametrize("to", ["ftp://host/x", " "])
def test_a_schedule_that_cannot_work_is_refused(to: str) -> None:
    with pytest.raises(SettingsError):
        check_schedule(Settings(backup_to=to))


# -- who hears of it


def test_metrics_have_the_age_of_the_last_backup_and_the_failures(
    schedule: Schedule, docs: Database
) -> None:
    metrics = Metrics()

    def of(name: str) -> float:
        found = metrics.registry.get_sample_value(f"embedding_worker_{name}")
        assert found is not None
        return found

    def has_seen(failures: int) -> bool:
        for _ in range(len(schedule.log.events)):
            name, fields = schedule.log.events.pop(0)
            metrics.event(name, **fields)
        return of("failed_backups") == failures and (failures > 0 or of("backup_age_seconds") < 60)

    assert isnan(of("backup_age_seconds"))
    schedule.place.write_text("no directory")
    with schedule.running():
        eventually(partial(has_seen, 1), LONG)
        assert isnan(of("backup_age_seconds"))
        schedule.place.unlink()
        let_pass(docs, "10 minutes")
        eventually(partial(has_seen, 0), LONG)


def test_a_relay_keeps_events_until_the_next_pulse_and_their_order() -> None:
    log = Log()
    relay = Relay(log.event)
    relay.entrance.event("backup_failed", cause="a")
    relay.entrance.event("backups_seen", failures=1)
    assert log.events == []
    relay.pulse()
    assert [name for name, _ in log.events] == ["backup_failed", "backups_seen"]
    relay.entrance.event("backup_completed", rows=1)
    relay.pulse()
    assert len(log.events) == 3


def test_people_are_notified_of_failures() -> None:
    assert "backup_failed" in NOTIFIED
    assert "backup_completed" not in NOTIFIED


def test_the_doctor_names_a_failed_and_an_overdue_backup(
    schedule: Schedule, docs: Database
) -> None:
    def found() -> list[tuple[str, str]]:
        return [
            (finding.check, finding.level)
            for finding in schedule.queue.diagnose()
            if finding.check.startswith("backup")
        ]

    with schedule.running():
        eventually(lambda: schedule.has("complete"), LONG)
    assert found() == []
    let_pass(docs, "7 hours 59 minutes")
    assert found() == []
    let_pass(docs, "2 minutes")
    assert found() == [("backup_overdue", "warning")]
    backup = schedule.queue.begin_backup(
        str(schedule.place), "one", timedelta(minutes=1), timedelta(hours=4)
    )
    assert backup
    schedule.queue.end_backup(backup, 0, 0, "no route to host")
    assert found() == [("backup_failed", "warning"), ("backup_overdue", "warning")]
    assert value(docs, "select cause from diagnose_embeddings() where check_name = 'backup_failed'")
    backup = schedule.queue.begin_backup(str(schedule.place), "one", timedelta(minutes=1))
    assert backup
    schedule.queue.end_backup(backup, 1, 1)
    assert found() == []
