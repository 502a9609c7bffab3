"""Which backup is due, and who makes it."""

from __future__ import annotations

import re
from datetime import UTC, timedelta

import pytest

from tests.conftest import Database, rows, value
from worker.errors import SettingsError
from worker.queue import AdminQueue, KnownBackup

LEASE = timedelta(minutes=5)
EVERY = timedelta(hours=4)
TO = "s3://safe/backups"


def begin(
    queue: AdminQueue,
    worker: str = "one",
    every: timedelta | None = EVERY,
    to: str = TO,
    table: str | None = None,
) -> KnownBackup | None:
    return queue.begin_backup(to, worker, LEASE, every, table)


def begun(queue: AdminQueue, worker: str = "one", every: timedelta | None = EVERY) -> KnownBackup:
    backup = begin(queue, worker, every)
    assert backup
    return backup


def let_pass(db: Database, time: str) -> None:
    """What time does to all backups."""
    db.execute(
        "update embedding_backups set started_at = started_at - %(time)s::interval,"
        " finished_at = finished_at - %(time)s::interval,"
        " lease_expires_at = lease_expires_at - %(time)s::interval",
        {"time": time},
    )


def test_the_first_backup_is_due_and_one_worker_makes_it(docs: Database, queue: AdminQueue) -> None:
    backup = begun(queue)
    assert (backup.state, backup.worker, backup.rows, backup.failures) == ("running", "one", 0, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", backup.name)
    assert backup.name == backup.started_at.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    assert begin(queue, "two") is None
    assert begin(queue, "two", every=None) is None
    assert begin(queue, "two", to="elsewhere")


def test_a_complete_backup_is_due_again_after_the_interval(
    docs: Database, queue: AdminQueue
) -> None:
    backup = begun(queue)
    assert queue.extend_backup(backup, LEASE, 10, 1000)
    assert (queue.backups()[0].rows, queue.backups()[0].bytes) == (10, 1000)
    assert queue.end_backup(backup, 25, 2500, source="cli")
    [known] = queue.backups()
    assert (known.state, known.rows, known.bytes, known.lease_expires_at) == (
        *("complete", 25, 2500),
        None,
    )
    assert known.finished_at
    assert begin(queue, "two") is None
    let_pass(docs, "4 hours")
    again = begun(queue, "two")
    assert (again.id, again.name) != (backup.id, backup.name)


def test_a_command_makes_one_at_any_time(docs: Database, queue: AdminQueue) -> None:
    names = set()
    for _ in range(3):
        backup = begun(queue, every=None)
        names.add(backup.name)
        assert queue.end_backup(backup, 1, 1)
    assert len(names) == 3  # in the same second as well


@pytest.mark.contract
def test_another_worker_continues_when_the_lease_has_run_out(
    docs: Database, queue: AdminQueue
) -> None:
    backup = begun(queue)
    assert queue.extend_backup(backup, LEASE, 10, 1000)
    let_pass(docs, "6 minutes")
    again = begun(queue, "two")
    assert (again.id, again.name, again.worker, again.rows) == (backup.id, backup.name, "two", 10)
    assert not queue.extend_backup(backup, LEASE, 11, 1100)
    assert not queue.end_backup(backup, 11, 1100)
    assert queue.end_backup(again, 12, 1200)
    assert queue.backups()[0].rows == 12


@pytest.mark.contract
def test_a_worker_that_stops_hands_it_over_at_once(docs: Database, queue: AdminQueue) -> None:
    backup = begun(queue)
    assert queue.extend_backup(backup, timedelta(0))
    assert begun(queue, "two").name == backup.name


def test_what_was_begun_more_than_a_day_ago_is_not_continued(
    docs: Database, queue: AdminQueue
) -> None:
    old = begun(queue)
    let_pass(docs, "25 hours")
    new = begun(queue, "two")
    assert new.name != old.name
    assert (queue.backups()[0].state, queue.backups()[0].error_message) == (
        "failed",
        "nobody continued it within a day",
    )


def test_a_failed_backup_is_tried_again_after_a_pause_that_grows(
    docs: Database, queue: AdminQueue
) -> None:
    name = begun(queue).name
    for failures, minutes in enumerate([1, 2, 4, 8, 16, 32, 64, 128], start=1):
        [known] = [backup for backup in queue.backups() if backup.state == "running"]
        assert queue.end_backup(known, 1, 1, "no route to host")
        [known] = queue.backups()
        assert (known.state, known.failures, known.error_message) == (
            *("failed", failures),
            "no route to host",
        )
        let_pass(docs, f"{minutes * 60 - 10} seconds")
        assert begin(queue, "two") is None
        let_pass(docs, "20 seconds")
        assert begun(queue, "two").name == name


def test_the_pause_is_at_most_the_interval(docs: Database, queue: AdminQueue) -> None:
    assert queue.end_backup(begun(queue), 1, 1, "why")
    docs.execute("update embedding_backups set failures = 60")
    let_pass(docs, "3 hours 59 minutes")
    assert begin(queue) is None
    let_pass(docs, "2 minutes")
    again = begun(queue)
    assert queue.end_backup(again, 1, 1)
    assert queue.backups()[-1].failures == 0


def test_a_command_does_not_wait_after_a_failure(docs: Database, queue: AdminQueue) -> None:
    backup = begun(queue)
    assert queue.end_backup(backup, 1, 1, "why")
    assert begun(queue, "two", every=None).name == backup.name


@pytest.mark.contract
def test_failures_are_counted_also_over_backups_that_were_given_up(
    docs: Database, queue: AdminQueue
) -> None:
    assert queue.end_backup(begun(queue), 1, 1, "why")
    let_pass(docs, "2 days")
    new = begun(queue)
    assert queue.end_backup(new, 1, 1, "why")
    assert [backup.failures for backup in queue.backups()] == [1, 2]


@pytest.mark.contract
def test_a_backup_of_one_table_does_not_stand_for_all(docs: Database, queue: AdminQueue) -> None:
    partial = begin(queue, table="docs", every=None)
    assert partial
    assert partial.only_table == "docs"
    whole = begun(queue, "two")
    assert whole.name != partial.name
    assert begin(queue, "three", table="docs", every=None) is None
    assert queue.end_backup(partial, 1, 1)
    assert begin(queue, "three") is None
    assert queue.end_backup(whole, 1, 1)


def test_the_end_of_a_backup_is_in_the_audit(docs: Database, queue: AdminQueue) -> None:
    backup = begun(queue, every=None)
    assert queue.end_backup(backup, 3, 100, "no route", source="cli")
    assert queue.end_backup(begun(queue, every=None), 5, 200, source="cli")
    assert rows(
        docs,
        "select event, source, figures from embedding_audit where event ~ 'backup' order by id",
    ) == [
        (
            "backup_failed",
            "cli",
            {"destination": TO, "name": backup.name, "rows": 3, "bytes": 100, "error": "no route"},
        ),
        (
            "backup_completed",
            "cli",
            {"destination": TO, "name": backup.name, "rows": 5, "bytes": 200},
        ),
    ]


@pytest.mark.contract
def test_what_a_check_found_is_recorded(docs: Database, queue: AdminQueue) -> None:
    backup = begun(queue)
    queue.end_backup(backup, 1, 1)
    assert queue.record_backup_check(TO, backup.name, "part 2 is missing")
    assert queue.backups()[0].problem == "part 2 is missing"
    assert queue.record_backup_check(TO, backup.name, None)
    assert (queue.backups()[0].problem, queue.backups()[0].checked_at is None) == (None, False)
    assert not queue.record_backup_check(TO, "unknown", None)


def test_old_backups_are_forgotten_but_not_the_last_complete_one(
    docs: Database, queue: AdminQueue
) -> None:
    for error in (None, None, "why"):
        assert queue.end_backup(begun(queue, every=None), 1, 1, error)
        let_pass(docs, "2 days")
    complete = queue.backups()[1]
    docs.execute(
        "insert into embedding_backups (destination, name, state, worker, failures)"
        " select %s, 'n' || n, 'failed', 'one', n from generate_series(1, 250) as n",
        [TO],
    )
    assert queue.end_backup(begun(queue, every=None), 1, 1, "why")
    known = queue.backups()
    assert len(known) == 201
    assert known[0] == complete


@pytest.mark.contract
@pytest.mark.parametrize("to", ["s3://KEY:SECRET@bucket/prefix", "https://user:word@host/x"])
def test_a_destination_with_a_secret_is_refused(docs: Database, queue: AdminQueue, to: str) -> None:
    with pytest.raises(SettingsError):
        begin(queue, to=to)
    assert value(docs, "select count(*) from embedding_backups") == 0
