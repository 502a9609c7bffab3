"""The worker that stays: what wakes it, what it rests for, and whom it obeys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psycopg
import pytest

from tests import conftest
from tests.conftest import Database, rows, value
from tests.integration.jobs import insert
from tests.integration.runs import LONG, SCOPE, Runs
from worker.engine import service
from worker.engine.pipeline import Pipeline
from worker.engine.progress import RunStats
from worker.engine.service import CommandThrottle, Service
from worker.engine.throttling import FULL, Throttle, ThrottleDecision, together
from worker.errors import SettingsError
from worker.queue import AdminQueue, WorkerState
from worker.queue.postgres import PostgresQueue

NEVER = 3600.0  # seconds
eventually = partial(conftest.eventually, within=LONG)


@dataclass
class Log:
    """Writes down what a run tells."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.events if event == name]


@contextmanager
def serving(
    runs: Runs,
    queue: AdminQueue | None = None,
    worker: str = "test",
    sleep_after: float = NEVER,
    throttle: Throttle = lambda: FULL,
) -> Iterator[Pipeline]:
    """A service at work, in a thread of its own; `throttle` is one of its throttles."""
    runs = replace(runs, queue=queue or runs.queue)
    scope = replace(SCOPE, worker=worker)
    commands = CommandThrottle(runs.queue, scope)
    pipeline = runs.new(scope=scope, progress=Log(), throttle=together([commands, throttle]))
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(Service(pipeline, commands, sleep_after).run)
        try:
            yield pipeline
        finally:
            pipeline.stop.set()
            ending.result(LONG)


def is_in(db: Database, state: WorkerState, worker: str = "test") -> Callable[[], bool]:
    asked = "select state from embedding_workers where worker = %s"
    return lambda: rows(db, asked, worker) == [(state,)]


def are_done(db: Database, count: int) -> Callable[[], bool]:
    done = "select count(*) from embedding_queue where status = 'completed'"
    return lambda: bool(value(db, done) == count)


@pytest.fixture
def only_when_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the queue by themselves once they wait."""
    monkeypatch.setattr(service, "LAST_LOOK", NEVER)
    monkeypatch.setattr(service, "LOOK_ASLEEP", NEVER)
    monkeypatch.setattr(service, "FIRST_LOOK", NEVER)


# -- what wakes it


@pytest.fixture
def direct(docs: Database) -> Iterator[PostgresQueue]:
    """A connection that notifications reach, whatever the way of the others."""
    about = docs.info
    url = f"postgresql://{about.user}@/{about.dbname}?host={about.host}&port={about.port}"
    with PostgresQueue(url, "direct") as queue:
        assert queue.listen()
        yield queue


def test_a_row_wakes_it(
    docs: Database, runs: Runs, direct: PostgresQueue, only_when_woken: None
) -> None:
    with serving(runs, direct):
        eventually(is_in(docs, "waiting"))
        for count in (1, 2, 3):
            docs.execute("insert into docs values (%s, 'text')", [count])
            eventually(are_done(docs, count))
            eventually(is_in(docs, "waiting"))


@pytest.mark.parametrize(
    "statement",
    [
        "select requeue_embeddings('completed')",
        "update embedding_queue set status = 'pending'",
        "update docs set body = body || '!'",
    ],
)
def test_so_does_what_makes_a_job_due_again(
    docs: Database, runs: Runs, direct: PostgresQueue, only_when_woken: None, statement: Any
) -> None:
    insert(docs, 1)
    with serving(runs, direct):
        eventually(are_done(docs, 1))
        eventually(is_in(docs, "waiting"))
        before = value(docs, "select updated_at from embedding_queue")
        docs.execute(statement)
        eventually(lambda: value(docs, "select updated_at > %s from embedding_queue", before))
        eventually(are_done(docs, 1))


def test_it_is_woken_on_a_new_connection_as_well(
    docs: Database, runs: Runs, direct: PostgresQueue, only_when_woken: None
) -> None:
    with serving(runs, direct):
        eventually(is_in(docs, "waiting"))
        docs.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'direct'"
        )
        eventually(
            lambda: value(
                docs, "select count(*) from pg_stat_activity where application_name = 'direct'"
            )
        )
        eventually(lambda: not docs.execute("select 1").closed)
        insert(docs, 1)
        eventually(are_done(docs, 1))


def test_where_no_notification_comes_through_it_looks_for_itself(
    docs: Database, runs: Runs
) -> None:
    with serving(runs):
        eventually(is_in(docs, "waiting"))
        insert(docs, 5)
        eventually(are_done(docs, 5))


@pytest.fixture
def deaf(runs: Runs, only_when_woken: None, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """No notification reaches the worker."""
    monkeypatch.setattr(type(runs.queue), "listen", lambda queue: False)
    return runs


@contextmanager
def polling(docs: Database, deaf: Runs, **options: Any) -> Iterator[None]:
    """A service that has done a job, and now learns from its polls alone what there is to do."""
    insert(docs, 1)
    with serving(deaf, **options):
        eventually(are_done(docs, 1))
        eventually(is_in(docs, "waiting"))
        yield


@pytest.mark.contract
@pytest.mark.only_in_full("pgbouncer")
def test_a_poll_finds_a_row(docs: Database, deaf: Runs) -> None:
    with polling(docs, deaf):
        for count in (2, 3):
            time.sleep(2)  # without work
            docs.execute("insert into docs values (%s, 'text')", [count])
            eventually(are_done(docs, count))


def test_a_poll_finds_a_job_when_its_time_comes(docs: Database, deaf: Runs) -> None:
    with polling(docs, deaf):
        docs.execute("update embedding_targets set debounce = '1 second'")
        docs.execute("insert into docs values (2, 'text')")
        eventually(are_done(docs, 2))


@pytest.mark.only_in_full("pgbouncer")
def test_a_poll_brings_orders_and_wakes_a_sleeper(docs: Database, deaf: Runs) -> None:
    with polling(docs, deaf):
        docs.execute("select control_embeddings('pause')")
        eventually(is_in(docs, "paused"))
        docs.execute("select control_embeddings('sleep')")
        eventually(is_in(docs, "asleep"))
        docs.execute("insert into docs values (2, 'text')")
        docs.execute("select control_embeddings('work')")
        eventually(are_done(docs, 2))


def test_the_end_does_not_wait_for_the_next_poll(
    docs: Database, deaf: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "poll_interval", lambda *_: NEVER)
    with polling(docs, deaf):
        pass
    assert rows(docs, "select from embedding_workers") == []


def test_while_it_may_claim_nothing_a_due_job_does_not_wake_it(
    docs: Database, deaf: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[bool] = []
    looks: list[None] = []
    poll_queue = type(deaf.queue).poll

    def poll(queue: AdminQueue, *given: Any) -> Any:
        command, is_due = poll_queue(queue, *given)
        polls.append(is_due)
        return command, is_due

    def look() -> ThrottleDecision:
        looks.append(None)
        return FULL

    monkeypatch.setattr(type(deaf.queue), "poll", poll)
    monkeypatch.setattr(service, "poll_interval", lambda *_: 0.01)
    with polling(docs, deaf, throttle=look):
        docs.execute("select control_embeddings('pause')")
        eventually(is_in(docs, "paused"))
        polled = len(polls)
        eventually(lambda: len(polls) > polled)  # it has entered the state, and waits
        looked = len(looks)
        docs.execute("insert into docs values (2, 'text')")
        eventually(lambda: polls.count(True) > 10)
        assert len(looks) == looked


@pytest.mark.over_a_connection
def test_it_knows_whether_notifications_come_through(
    docs: Database, queue: PostgresQueue, database_url: str
) -> None:
    with psycopg.connect(database_url) as neighbour:
        # behind a pooler, a transaction that stays open keeps a backend to itself
        (backend,) = neighbour.execute("select pg_backend_pid()").fetchone() or (0,)
        is_direct = backend == neighbour.info.backend_pid
        assert queue.listen() is is_direct
    docs.execute("select pg_notify('embedding_queue', '')")
    assert not is_direct or queue.wait(LONG)


def test_writers_notify_only_while_somebody_waits(docs: Database, direct: PostgresQueue) -> None:
    def insert_and_listen(seconds: float) -> bool:
        docs.execute("insert into docs select coalesce(max(id), 0) + 1, 'text' from docs")
        return direct.wait(seconds)

    seen = "select embedding_worker_heartbeat('w', 'here', 1, %s, listens => %s)"
    for state, listens in (("working", True), ("waiting", False), ("paused", True)):
        docs.execute(seen, [state, listens])
        assert not insert_and_listen(0.1)
    docs.execute(seen, ["waiting", True])
    assert insert_and_listen(LONG)
    docs.execute("update embedding_workers set seen_at = now() - interval '3 minutes'")
    assert not insert_and_listen(0.1), "it was killed"


# -- orders


def test_it_pauses_and_resumes(docs: Database, runs: Runs, queue: AdminQueue) -> None:
    with serving(runs) as run:
        eventually(is_in(docs, "waiting"))
        docs.execute("select control_embeddings('pause')")
        eventually(is_in(docs, "paused"))
        insert(docs, 5)
        time.sleep(0.3)  # in which it would be done
        assert are_done(docs, 0)()
        docs.execute("select control_embeddings('work')")
        eventually(are_done(docs, 5))
    [paused, resumed] = run.progress.named("throttle_changed")  # type: ignore[attr-defined]
    assert paused == {"throttle_level": "paused", "cause": "paused; run `worker resume`"}
    assert resumed["throttle_level"] == "full"


@pytest.mark.only_in_full("pgbouncer")
def test_a_busy_one_obeys_as_well(docs: Database, runs: Runs, openai: Any) -> None:
    insert(docs, 2000)
    openai.latency = 0.02
    with serving(runs):
        eventually(lambda: value(docs, "select count(embedding) from docs") > 0)
        docs.execute("select control_embeddings('pause')")
        eventually(is_in(docs, "paused"))
        done = value(docs, "select count(*) from embedding_queue where status = 'completed'")
        held = value(docs, "select count(*) from embedding_queue where status = 'processing'")
        assert (done < 2000, held) == (True, 0)
        docs.execute("select control_embeddings('work')")
        eventually(are_done(docs, 2000))


@pytest.mark.only_in_full("pgbouncer")
def test_asleep_it_holds_no_model_and_wakes_when_it_is_told(docs: Database, runs: Runs) -> None:
    insert(docs, 1)
    with serving(runs) as run:
        eventually(are_done(docs, 1))
        docs.execute("select control_embeddings('sleep')")
        eventually(is_in(docs, "asleep"))
        assert not run._models._models
        docs.execute("insert into docs values (100, 'text')")
        time.sleep(0.3)
        assert are_done(docs, 1)()
        docs.execute("select control_embeddings('work')")
        eventually(are_done(docs, 2))


@pytest.mark.only_in_full("pgbouncer")
def test_after_a_long_rest_it_sleeps_until_there_is_work(docs: Database, runs: Runs) -> None:
    insert(docs, 1)
    with serving(runs, sleep_after=0.3) as run:
        eventually(is_in(docs, "asleep"))
        assert are_done(docs, 1)()
        assert not run._models._models
        docs.execute("insert into docs values (100, 'text')")
        eventually(are_done(docs, 2))


def test_an_order_wakes_it_from_a_sleep_of_its_own(docs: Database, runs: Runs) -> None:
    with serving(runs, sleep_after=1.0):
        eventually(is_in(docs, "asleep"))
        docs.execute("select control_embeddings('work')")
        eventually(is_in(docs, "waiting"))


@pytest.mark.only_in_full("pgbouncer")
def test_one_of_two_may_be_told_alone(
    docs: Database, runs: Runs, database_url: str, queue: AdminQueue
) -> None:
    with (
        PostgresQueue(database_url, "two") as second,
        serving(runs, worker="one"),
        serving(runs, second, worker="two"),
    ):
        eventually(is_in(docs, "waiting", "one"))
        eventually(is_in(docs, "waiting", "two"))
        assert value(docs, "select control_embeddings('pause', 'one')") == 1
        eventually(is_in(docs, "paused", "one"))
        assert is_in(docs, "waiting", "two")()
        insert(docs, 5)
        eventually(are_done(docs, 5))
        assert value(docs, "select control_embeddings('sleep')") == 2
        eventually(is_in(docs, "asleep", "one"))
        eventually(is_in(docs, "asleep", "two"))
        assert value(docs, "select control_embeddings('work', 'two')") == 1
        eventually(is_in(docs, "waiting", "two"))
        assert is_in(docs, "asleep", "one")()


def test_what_all_are_told_replaces_what_one_was_told(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select embedding_worker_heartbeat('test', 'here', 1)")
    assert queue.command(SCOPE).desired_state == "work"
    assert queue.control("pause", "test") == 1
    assert queue.command(SCOPE).desired_state == "pause"
    assert queue.command(replace(SCOPE, worker="other")).desired_state == "work"
    assert queue.control("sleep") == 1
    assert queue.command(SCOPE).desired_state == "sleep"
    assert queue.command(replace(SCOPE, worker="other")).desired_state == "sleep", (
        "also one that comes later"
    )


@pytest.mark.contract
def test_the_orders_in_force_are_those_of_all_and_of_single_workers(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("select embedding_worker_heartbeat('test', 'here', 1)")
    assert queue.commands() == []
    queue.control("pause")
    queue.control("work", "test")
    commands = queue.commands()
    assert [(order.worker, order.desired_state, order.is_for_all) for order in commands] == [
        ("*", "pause", True),
        ("test", "work", False),
    ]
    [since] = {order.since for order in commands if order.is_for_all}
    assert since == value(docs, "select since from embedding_control where worker = '*'")
    queue.control("work")
    assert [order.desired_state for order in queue.commands()] == ["work"]


def test_nobody_of_that_name_is_told(docs: Database, queue: AdminQueue) -> None:
    with pytest.raises(SettingsError, match="there is no worker nobody") as refused:
        queue.control("pause", "nobody")
    assert "worker status" in str(refused.value.hint)


def test_a_wish_that_nobody_knows_is_refused(docs: Database) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not 'dance'"):
        docs.execute("select control_embeddings('dance')")


# -- what it tells


@pytest.mark.only_in_full("pgbouncer")
def test_a_backlog_that_is_done_is_told_of_and_a_row_is_not(
    docs: Database, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MANY_JOBS", 10)
    with serving(runs) as run:
        eventually(is_in(docs, "waiting"))
        docs.execute("insert into docs values (100, 'text')")
        eventually(are_done(docs, 1))
        eventually(lambda: run.activity.state == "waiting")
        insert(docs, 20)
        eventually(are_done(docs, 21))
        log: Any = run.progress
        eventually(lambda: log.named("queue_drained"))
    [drained] = log.named("queue_drained")
    assert (drained["completed"], drained["failed"]) == (20, 0)
