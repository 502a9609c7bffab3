"""People are told once, however many workers find something out."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier, Event
from uuid import uuid4

import pytest

from tests.conftest import Database, rows, value
from tests.inbox import Inbox, Said
from tests.integration.jobs import SCOPE
from tests.integration.runs import MODEL, Runs
from worker.engine.events import sentence
from worker.engine.retrying import RetryingQueue
from worker.observers.channels import Command, Webhook
from worker.observers.notify import Notifier
from worker.queue import AdminQueue, Scope
from worker.queue.postgres import PostgresQueue

DRAINED = {"completed": 3, "failed": 0, "seconds": 1.0}
STOPPED = {"provider": "openai", "cause": "the key is not valid", "hint": "Mend it."}


def in_one_line(document: object) -> str:
    return json.dumps(document, ensure_ascii=False)


def announce(queue: AdminQueue, event: str = "queue_drained", subject: str = "") -> bool:
    return queue.announce(event, subject, uuid4())


def let_time_pass(db: Database, minutes: int) -> None:
    db.execute(
        "update embedding_announcements set reported_at = reported_at - make_interval(mins => %s),"
        " announced_at = announced_at - make_interval(mins => %s)",
        [minutes, minutes],
    )


@pytest.mark.contract
def test_an_event_falls_to_the_first_who_reports_it(queue: AdminQueue) -> None:
    assert announce(queue)
    assert not announce(queue)


def test_what_it_is_about_makes_it_another(queue: AdminQueue) -> None:
    assert announce(queue, "provider_stopped", "openai")
    assert announce(queue, "provider_stopped", "azure")
    assert not announce(queue, "provider_stopped", "openai")
    assert announce(queue, "failures_exceeded")


def test_it_is_another_when_nobody_has_reported_it_for_a_while(
    queue: AdminQueue, db: Database
) -> None:
    assert announce(queue)
    for _ in range(3):  # reported again and again, it stays the same
        let_time_pass(db, 10)
        assert not announce(queue)
    let_time_pass(db, 16)
    assert announce(queue)
    assert value(db, "select announced_at = reported_at from embedding_announcements")
    assert not announce(queue)


@pytest.mark.contract
def test_a_report_may_be_repeated_if_its_answer_was_lost(queue: AdminQueue) -> None:
    ours, theirs = uuid4(), uuid4()
    assert queue.announce("queue_drained", "", ours)
    assert not queue.announce("queue_drained", "", theirs)
    assert queue.announce("queue_drained", "", ours)
    assert not queue.announce("queue_drained", "", theirs)


@pytest.mark.over_a_connection
def test_of_many_who_report_at_once_it_falls_to_one(connect: Callable[[], Database]) -> None:
    at_once = Barrier(6)
    connections = [connect() for _ in range(6)]

    def report(connection: Database) -> list[bool]:
        told = []
        for round_ in range(20):
            at_once.wait(20)
            told.append(
                value(
                    connection,
                    "select announce_embedding_event('queue_drained', %s, %s)",
                    str(round_),
                    uuid4(),
                )
            )
        return told

    with ThreadPoolExecutor(6) as pool:
        by_connection = list(pool.map(report, connections))
    assert [sum(of_round) for of_round in zip(*by_connection, strict=True)] == [1] * 20


@pytest.mark.over_a_connection
def test_two_workers_on_one_database_tell_once(database_url: str, tmp_path: Path) -> None:
    said = Said()
    with Inbox() as inbox, ExitStack() as stack:
        notifiers = [
            stack.enter_context(
                Notifier(
                    stack.enter_context(PostgresQueue(database_url, name)),
                    Scope(name, SCOPE.lease, SCOPE.default_model),
                    [Webhook(inbox.url), Command(f"cat >> '{tmp_path}/told'")],
                    said,
                )
            )
            for name in ("one", "two")
        ]
        for notifier in notifiers:
            notifier.event("queue_drained", **DRAINED)
        for notifier in reversed(notifiers):
            notifier.event("provider_stopped", **STOPPED)
            notifier.event("database_back", seconds=1.0)  # of which nobody is told
        said.wait_for(4)
    # each has couriers of its own, so they may arrive in any order
    drained, stopped = sorted(inbox.told, key=lambda told: str(told["worker"]))
    assert (drained["event"], drained["worker"]) == ("queue_drained", "one")
    assert drained["fields"] == DRAINED
    assert (stopped["event"], stopped["worker"]) == ("provider_stopped", "two")
    assert stopped["text"] == (f"two: {sentence('provider_stopped', dict(STOPPED))} (Mend it.)")
    by_command = (tmp_path / "told").read_text().splitlines()
    assert sorted(by_command) == sorted(map(in_one_line, [drained, stopped]))
    assert sorted(
        (name, str(fields["about"]), str(fields["channel"])) for name, fields in said.events
    ) == [
        ("notification_sent", event, channel)
        for event in ("provider_stopped", "queue_drained")
        for channel in ("command", "webhook")
    ]


@pytest.mark.over_a_connection
def test_what_workers_of_other_columns_find_out_is_another_event(
    queue: AdminQueue, db: Database
) -> None:
    with Inbox() as inbox:
        for table in ("docs", "notes", None):
            scope = Scope("w", SCOPE.lease, MODEL, table, "embedding" if table else None)
            with Notifier(queue, scope, [Webhook(inbox.url)], Said()) as notifier:
                notifier.event("queue_drained", **DRAINED)
                notifier.event("provider_stopped", **STOPPED)
    assert sorted(
        value for (value,) in rows(db, "select subject from embedding_announcements")
    ) == [
        "",
        "docs.embedding",
        "notes.embedding",
        "openai",
    ]
    assert len(inbox.told) == 4


@pytest.mark.over_a_connection
def test_a_database_that_is_away_means_that_nobody_is_told(queue: AdminQueue, db: Database) -> None:
    said, stop = Said(), Event()
    stop.set()  # and so there is no patience
    db.execute("alter table embedding_announcements rename to away")
    with (
        Inbox() as inbox,
        Notifier(RetryingQueue(queue, said, stop), SCOPE, [Webhook(inbox.url)], said) as notifier,
    ):
        notifier.event("queue_drained", **DRAINED)
    assert [name for name, _ in said.events] == ["notification_failed"]
    assert inbox.told == []


@pytest.mark.over_a_connection
def test_a_run_with_a_key_that_is_refused_has_it_told(
    runs: Runs, queue: AdminQueue, docs: Database
) -> None:
    """A whole run, with the notifier as the one who watches it."""
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 30) i")
    runs.key = "sk-another"
    said = Said()
    scope = Scope("test", SCOPE.lease, MODEL)
    with Inbox() as inbox, Notifier(queue, scope, [Webhook(inbox.url)], said) as notifier:
        runs.new(progress=notifier).drain()
        said.wait_for(1)
    [told] = inbox.told
    assert (told["event"], told["fields"]["provider"]) == ("provider_stopped", "openai")
    assert rows(docs, "select event, subject from embedding_announcements") == [
        ("provider_stopped", "openai")
    ]
