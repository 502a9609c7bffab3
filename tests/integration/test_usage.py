"""What was done minute by minute, and which providers are out of use."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import LiteralString

import pytest

from tests.conftest import Database, Worker, rows, value
from tests.integration.jobs import SCOPE
from tests.integration.tables import Connect, refusal
from worker.queue import AdminQueue, Report, Usage
from worker.queue.postgres import PostgresQueue

# -- the counters

ONE = Usage("a:one", completed=10, failed=1, requests=2, tokens=300, cost=0.25)
TWO = Usage("b:two", completed=5, failed=0, requests=1, tokens=70, cost=None)

SUMS: LiteralString = (
    "select model, sum(completed)::integer, sum(failed)::integer, sum(requests)::integer,"
    " sum(tokens)::integer, sum(cost)::real from embedding_usage group by model order by model"
)


def say(queue: AdminQueue, *usage: Usage, worker: str = "test") -> None:
    queue.heartbeat(replace(SCOPE, worker=worker), Report("working", usage=usage))


def test_what_is_new_since_the_last_heartbeat_is_added_to_the_running_minute(
    db: Database, queue: AdminQueue
) -> None:
    say(queue, ONE, TWO)
    assert rows(db, SUMS) == [("a:one", 10, 1, 2, 300, 0.25), ("b:two", 5, 0, 1, 70, None)]
    say(queue, replace(ONE, completed=12, tokens=350, requests=3, cost=0.375), TWO)
    assert rows(db, SUMS) == [("a:one", 12, 1, 3, 350, 0.375), ("b:two", 5, 0, 1, 70, None)]
    assert value(
        db,
        "select bool_and(minute = date_trunc('minute', minute) and now() - minute < '2 minutes')"
        "  from embedding_usage",
    )


def test_a_call_that_is_made_again_adds_nothing(db: Database, queue: AdminQueue) -> None:
    for _ in range(3):
        say(queue, ONE, TWO)
    assert rows(db, SUMS) == [("a:one", 10, 1, 2, 300, 0.25), ("b:two", 5, 0, 1, 70, None)]


def test_a_call_that_arrives_after_a_later_one_adds_nothing(
    db: Database, queue: AdminQueue
) -> None:
    later = replace(ONE, completed=20, requests=4, cost=0.5)
    for said in (ONE, later, ONE, later):
        say(queue, said)
    assert rows(db, SUMS) == [("a:one", 20, 1, 4, 300, 0.5)]


def test_a_heartbeat_that_says_nothing_of_a_model_leaves_it_as_it_was(
    db: Database, queue: AdminQueue
) -> None:
    for said in ([ONE], [], [TWO], [ONE, TWO]):
        say(queue, *said)
    assert rows(db, SUMS) == [("a:one", 10, 1, 2, 300, 0.25), ("b:two", 5, 0, 1, 70, None)]


def test_a_worker_that_has_done_nothing_leaves_no_trace(db: Database, queue: AdminQueue) -> None:
    say(queue, Usage("a:one", 0, 0, 0, 0, 0.0), Usage("b:two", 0, 0, 0, 0, None))
    assert rows(db, "select * from embedding_usage") == []


def test_minutes_are_kept_apart(db: Database, queue: AdminQueue) -> None:
    say(queue, ONE)
    db.execute("update embedding_usage set minute = minute - interval '1 minute'")
    say(queue, replace(ONE, completed=11))
    assert rows(
        db, "select completed, requests, cost::real from embedding_usage order by minute"
    ) == [(10, 2, 0.25), (1, 0, 0)]


def test_the_cost_of_a_minute_is_unknown_if_that_of_a_part_is(
    db: Database, queue: AdminQueue
) -> None:
    say(queue, ONE)
    say(queue, replace(ONE, cost=None), worker="without a list of prices")
    assert rows(db, SUMS) == [("a:one", 20, 2, 4, 600, None)]


def test_a_cost_is_counted_from_when_its_price_is_known(db: Database, queue: AdminQueue) -> None:
    say(queue, replace(ONE, cost=None))
    db.execute("update embedding_usage set minute = minute - interval '1 minute'")
    say(queue, replace(ONE, requests=3, cost=0.125))
    assert rows(db, "select cost::real from embedding_usage order by minute") == [(None,), (0.125,)]


def test_small_costs_add_up_exactly(db: Database, queue: AdminQueue) -> None:
    for count in range(1, 11):
        say(queue, Usage("a:one", count, 0, count, count, count / 10_000_000))
    assert value(db, "select sum(cost) = 0.000001 from embedding_usage")  # of one minute or two


def test_workers_who_speak_at_the_same_time_lose_nothing_and_do_not_deadlock(
    db: Database, database_url: str
) -> None:
    def speak(name: str, models: Sequence[str]) -> None:
        with PostgresQueue(database_url, "tests") as queue:
            for count in range(1, 41):
                said = [Usage(model, count, 0, count, 10 * count, None) for model in models]
                say(queue, *said, worker=name)

    with ThreadPoolExecutor(4) as pool:
        spoken = [
            pool.submit(speak, f"worker {number}", ["a", "b", "c"][:: 1 if number % 2 else -1])
            for number in range(4)
        ]
    for ending in spoken:
        ending.result()
    assert rows(db, SUMS) == [(model, 160, 0, 160, 1600, None) for model in "abc"]


def test_a_call_that_overtakes_its_own_repetition_is_counted_once(
    db: Database, connect: Connect, queue: AdminQueue
) -> None:
    """The first one still runs on a connection that the worker has given up."""
    given_up = connect()
    with ThreadPoolExecutor(1) as pool, given_up.transaction():
        given_up.execute(
            """select embedding_worker_heartbeat('test', 'here', 1, usage => '[{"model": "a:one","""
            """ "completed": 10, "failed": 1, "requests": 2, "tokens": 300, "cost": 0.25}]')"""
        )
        again = pool.submit(say, queue, ONE)
        waiting: LiteralString = "select exists (select from pg_locks where not granted)"
        while not value(db, waiting):
            assert not again.done()
        given_up.execute("select 'and now it ends'")
    again.result()
    assert rows(db, SUMS) == [("a:one", 10, 1, 2, 300, 0.25)]


def test_minutes_are_forgotten_after_a_week(
    db: Database, connect: Connect, queue: AdminQueue
) -> None:
    db.execute(
        "insert into embedding_usage (minute, model)"
        " values (now() - interval '8 days', 'old'), (now() - interval '9 days', 'held'),"
        "        (now() - interval '6 days', 'young')"
    )
    holding = connect()
    with holding.transaction():
        holding.execute("select from embedding_usage where model = 'held' for update")
        say(queue)
        assert [model for model, *_ in rows(db, SUMS)] == ["held", "young"]
    say(queue)
    assert [model for model, *_ in rows(db, SUMS)] == ["young"]


def test_the_counters_outlive_the_worker(db: Database, queue: AdminQueue) -> None:
    say(queue, ONE)
    queue.deregister(SCOPE)
    assert rows(db, SUMS) == [("a:one", 10, 1, 2, 300, 0.25)]
    say(queue, ONE, worker="the next")
    assert rows(db, SUMS) == [("a:one", 20, 2, 4, 600, 0.5)]


def test_a_model_that_is_named_twice_is_refused(db: Database) -> None:
    assert refusal(
        db,
        "select embedding_worker_heartbeat('test', 'here', 1, usage =>"
        """ '[{"model": "a", "tokens": 1}, {"model": "a", "tokens": 2}]')""",
    )
    assert rows(db, "select * from embedding_usage") == []


# -- providers


def test_a_provider_stands_there_with_its_trouble_until_it_works_again(
    db: Database, queue: AdminQueue
) -> None:
    queue.report_provider("openai", "api.openai.com answered 401: no such key", "Check the key.")
    queue.report_provider("local", "its files are missing")
    local, openai = queue.overview().providers
    assert (openai.provider, openai.error, openai.hint) == (
        "openai",
        "api.openai.com answered 401: no such key",
        "Check the key.",
    )
    assert (local.provider, local.hint) == ("local", None)
    queue.report_provider("openai", None)
    queue.report_provider("openai", None)
    assert queue.overview().providers == [local]


def test_a_trouble_lasts_since_it_was_first_reported_in_the_same_words(
    db: Database, queue: AdminQueue
) -> None:
    queue.report_provider("openai", "no key")
    db.execute("update embedding_providers set since = '2026-11-24', seen_at = '2026-11-24'")
    queue.report_provider("openai", "no key", "Give one.")
    [found] = queue.overview().providers
    assert found.since == value(db, "select timestamptz '2026-11-24'") < found.seen_at
    assert found.hint == "Give one."
    queue.report_provider("openai", "no money")
    [found] = queue.overview().providers
    assert (found.error, found.hint) == ("no money", None)
    assert (datetime.now(UTC) - found.since).total_seconds() < 60


@pytest.mark.parametrize("watched", [True, False])
def test_the_status_names_the_providers_that_cannot_be_used(
    db: Database, queue: AdminQueue, worker: Worker, watched: bool
) -> None:
    if watched:
        db.execute("create table notes (id bigint primary key, body text)")
        db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    queue.report_provider("local", "its files\nare missing")
    queue.report_provider("openai", "api.openai.com answered 401: no such key", "Check the key.")
    db.execute("update embedding_providers set since = '2026-11-24 14:02:59.9+00'")
    since = datetime(2026, 11, 24, 14, 2, 59, tzinfo=UTC).astimezone()
    result = worker("status")
    assert result.returncode == 0
    assert ("Nothing is watched yet" in result.stderr) is not watched
    assert result.stdout.splitlines()[-3:] == [
        f"stopped: local since {since:%Y-%m-%d %H:%M}: its files are missing",
        f"stopped: openai since {since:%Y-%m-%d %H:%M}: api.openai.com answered 401: no such key",
        "hint: Check the key.",
    ]
