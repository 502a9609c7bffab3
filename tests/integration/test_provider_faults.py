"""Whole runs against a provider that misbehaves.

Whatever it does: every job ends finished, pending or failed with its reason, no attempt counts that
was not the fault of the job, and no row has a vector that is not that of its text.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from math import log2
from random import Random

import pytest

from tests.acceptance.conftest import Held, statuses
from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.jobs import insert
from tests.integration.runs import Runs, at_once, under_way, unlike_their_text
from tests.openai_server import (
    Answer,
    Fault,
    OpenAIServer,
    as_lists,
    cut_short,
    error_with_status_200,
    hang,
    not_a_number,
    not_json,
    out_of_quota,
    rate_limited,
    server_error,
    too_few_items,
    unavailable,
    without_usage,
    wrong_order,
    wrong_width,
    zeros,
)
from worker.errors import ProviderRefused, Transient
from worker.queue.postgres import PostgresQueue

LARGE = "openai:text-embedding-3-large"


@pytest.fixture
def docs(texts: Database) -> Database:
    return texts


def nothing_is_wrong(db: Database) -> None:
    """Assert what has to be so after every run."""
    assert unlike_their_text(db) == []
    assert (
        rows(
            db,
            "select job.* from embedding_queue as job join docs on docs.id::text = job.record_id"
            " where (job.status = 'completed') is distinct from (docs.embedding is not null)"
            "    or job.status not in ('completed', 'pending', 'failed') or job.lease is not null"
            "    or job.abandoned_claims <> 0"
            "    or job.status = 'pending' and job.attempts <> 0"
            "    or job.status = 'failed' and (job.error_class is null or job.error_message = '')",
        )
        == []
    )


# -- one text over which it fails


@pytest.mark.parametrize("guilty", rest_in_full([1, 517, 1000]))
def test_one_refused_text_in_a_thousand_is_found_in_few_requests(
    docs: Database, runs: Runs, openai: OpenAIServer, guilty: int
) -> None:
    insert(docs, 1000)
    openai.reject = lambda text: text == f"text {guilty}"
    stats = runs.drain(1000)
    assert (stats.completed, stats.failed) == (999, 1)
    assert len(openai.requests) - 1 <= 2 * log2(1000) + 1
    assert rows(
        docs, "select record_id, error_class from embedding_queue where status = 'failed'"
    ) == [(str(guilty), "rejected")]
    nothing_is_wrong(docs)


def test_a_refused_text_costs_only_its_own_batch_further_requests(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    insert(docs, 1000)
    openai.reject = lambda text: text == "text 517"
    assert runs.drain(100).completed == 999
    assert len(openai.requests) - 10 <= 2 * log2(100) + 1
    nothing_is_wrong(docs)


STUMBLER = "select status, error_class, attempts from embedding_queue where record_id = '7'"


def test_a_text_over_which_the_provider_always_fails_is_set_back_alone_and_fails_in_the_end(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    asked: list[tuple[str, int]] = []

    def backoff(error_class: str, failures: int) -> timedelta:
        asked.append((error_class, failures))
        return timedelta(hours=1)  # it comes back when the test says so, not within the same run

    monkeypatch.setattr("worker.engine.writing.backoff", backoff)
    openai.stumble = lambda text: text == "text 7"
    insert(docs, 20)
    for attempt in range(1, 5):
        run = runs.new(20)
        assert run.drain().completed == (19 if attempt == 1 else 3), "its neighbours, in this run"
        assert run.errors == []
        assert rows(docs, STUMBLER) == [("pending", "provider_error", attempt)]
        docs.execute(
            "insert into docs select 100 * %s + i, 'another ' || i from generate_series(1, 3) i",
            [attempt],
        )
        docs.execute("update embedding_queue set available_at = now() where record_id = '7'")
    stats = runs.drain(20)
    assert (stats.completed, stats.failed) == (3, 1)
    assert rows(docs, STUMBLER) == [("failed", "provider_error", 5)]
    assert asked == [("provider_error", failures) for failures in range(1, 6)]
    assert "500" in value(docs, "select error_message from embedding_queue where record_id = '7'")
    nothing_is_wrong(docs)


def test_a_text_alone_over_which_the_provider_fails_is_told_from_an_outage_by_another_text(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    openai.stumble = lambda text: text == "text 1"
    insert(docs, 1)
    assert runs.drain().failed == 1
    assert rows(docs, "select status, error_class, attempts from embedding_queue") == [
        ("failed", "provider_error", 5)
    ]
    nothing_is_wrong(docs)


def test_a_provider_that_fails_over_every_text_is_out(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    openai.stumble = lambda text: True
    insert(docs, 30)
    run = runs.new()
    assert run.drain().failed == 0
    assert [type(error) for error in run.errors] == [Transient]
    assert rows(docs, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_two_texts_side_by_side_over_which_the_provider_fails_are_both_found(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    monkeypatch.setattr("worker.engine.writing.backoff", lambda *_: timedelta(hours=1))
    openai.stumble = lambda text: text in ("text 1", "text 2")
    insert(docs, 100)
    assert runs.drain(100).completed == 98


def test_deleted_rows_at_the_head_of_the_queue_hide_nothing(docs: Database, runs: Runs) -> None:
    insert(docs, 80)
    docs.execute("alter table docs disable trigger user")
    docs.execute("delete from docs where id <= 50")
    stats = runs.drain(25)
    assert (stats.dropped, stats.completed) == (50, 30)
    assert statuses(docs) == {"completed": 30}
    nothing_is_wrong(docs)


# -- now and then


def fine(due: Answer) -> Answer:
    return due


NOW_AND_THEN: dict[str, list[Fault]] = {
    "429 to every second call": [rate_limited(**{"retry-after": "0"}), fine] * 10,
    "429 in dates": [rate_limited(**{"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"})] * 3,
    "500 to some calls": [server_error, fine, fine, server_error, server_error],
    "503 to every second call": [unavailable, fine] * 5,
    "silence": [hang, fine, hang],
    "half an answer": [cut_short, fine, cut_short],
    "too few vectors": [too_few_items, too_few_items],
    "an error with status 200": [error_with_status_200] * 3,
    "a page to log in": [not_json, fine, not_json],
    "one after the other": [hang, server_error, cut_short, rate_limited(), too_few_items, not_json],
    "in another order": [wrong_order] * 3,
    "as lists of numbers": [as_lists] * 3,
    "without a count": [without_usage] * 3,
}


@pytest.mark.parametrize(
    "faults", rest_in_full(NOW_AND_THEN.values(), first=6), ids=list(NOW_AND_THEN)
)
def test_what_passes_is_not_noticed(
    docs: Database,
    runs: Runs,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Fault],
) -> None:
    at_once(monkeypatch)
    runs.timeout = 0.1
    insert(docs, 30)
    openai.faults.extend(faults)
    run = runs.new()
    stats = run.drain()
    assert (stats.completed, stats.taken, run.errors) == (30, 30, [])
    assert statuses(docs) == {"completed": 30}
    assert value(docs, "select max(attempts) from embedding_queue") == 0
    nothing_is_wrong(docs)


# -- at random


class Chaos(deque[Fault]):
    """Spoils a share of all answers at random, the same ones in each run."""

    def __init__(self, faults: list[Fault], share: float = 0.3) -> None:
        super().__init__()
        self._faults, self._share, self._random = faults, share, Random(12)

    def popleft(self) -> Fault:
        if self._random.random() < self._share:
            return self._random.choice(self._faults)
        return fine


MIXED = "500 and what is no fault of a text"
CHAOS: dict[str, list[Fault]] = {
    "500": [server_error],
    MIXED: [
        server_error,
        unavailable,
        cut_short,
        rate_limited(**{"retry-after": "0"}),
    ],
    "anything": [server_error, unavailable, not_json, too_few_items, out_of_quota, wrong_width],
}


@pytest.mark.parametrize(
    "faults",
    rest_in_full(
        [
            pytest.param(CHAOS["500"], id="500"),
            pytest.param(CHAOS[MIXED], id=MIXED, marks=pytest.mark.only_in_full),
            pytest.param(CHAOS["anything"], id="anything"),
        ]
    ),
)
@pytest.mark.parametrize("batch_size", [100, pytest.param(1, marks=pytest.mark.only_in_full)])
def test_texts_that_always_fail_are_blamed_in_chaos_and_no_others(
    docs: Database,
    runs: Runs,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Fault],
    batch_size: int,
) -> None:
    at_once(monkeypatch, tries_for=0.1)
    count = 50 if batch_size > 1 else 20
    guilty = {"text 7", "text 8", f"text {count}"}
    insert(docs, count)
    openai.stumble = lambda text: text in guilty
    openai.faults = Chaos(faults)
    for _ in range(100):  # the chaos of one run may hide who is guilty
        runs.drain(batch_size)
        if "pending" not in statuses(docs):
            break
        docs.execute("update embedding_queue set available_at = now() where status = 'pending'")
    assert statuses(docs) == {"completed": count - 3, "failed": 3}
    assert {
        f"text {record}"
        for (record,) in rows(docs, "select record_id from embedding_queue where status = 'failed'")
    } == guilty
    assert unlike_their_text(docs) == []


# -- without end


WITHOUT_END: dict[str, Fault] = {
    "429": rate_limited(**{"retry-after": "0"}),
    "500": server_error,
    "503": unavailable,
    "silence": hang,
    "half an answer": cut_short,
    "too few vectors": too_few_items,
    "an error with status 200": error_with_status_200,
    "a page to log in": not_json,
    "no credit": out_of_quota,
    "another width": wrong_width,
}


@pytest.mark.parametrize(
    "fault", rest_in_full(WITHOUT_END.values(), first=5), ids=list(WITHOUT_END)
)
def test_what_does_not_pass_hands_every_job_back_and_is_reported(
    docs: Database,
    runs: Runs,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    at_once(monkeypatch, tries_for=0)
    if fault is hang:
        runs.timeout = 0.05
    insert(docs, 30)
    openai.faults.extend([fault] * 100)
    run = runs.new()
    stats = run.drain()
    assert stats.released == stats.taken > 0
    [error] = run.errors
    assert isinstance(error, Transient | ProviderRefused)
    assert error.cause
    assert statuses(docs) == {"pending": 30}
    assert len(openai.requests) < 30, "a provider that is out is left alone"
    # a busy machine hears of the silence of the first and of the second limit: not one message
    reasons = "select count(error_message) from embedding_queue where error_class = %s"
    assert value(docs, reasons, error.error_class) == stats.released
    nothing_is_wrong(docs)

    openai.faults.clear()
    runs.timeout = 5.0
    docs.execute("update embedding_queue set available_at = now()")
    assert runs.drain().completed == 30
    nothing_is_wrong(docs)


@pytest.mark.parametrize("fault", [not_a_number, zeros], ids=["not a number", "zeros"])
def test_numbers_that_are_none_fail_their_jobs_and_are_not_written(
    docs: Database, queue: PostgresQueue, runs: Runs, openai: OpenAIServer, fault: Fault
) -> None:
    insert(docs, 30)
    openai.faults.extend([fault, fault])
    stats = runs.new(delay=0.001).drain()  # one at a time
    assert (stats.completed, stats.failed) == (20, 10)
    assert rows(
        docs, "select distinct error_class from embedding_queue where status = 'failed'"
    ) == [("bad_vector",)]
    nothing_is_wrong(docs)
    assert queue.requeue(status="failed").requeued == 10
    assert runs.drain().completed == 10


def test_another_width_leaves_what_came_before_it_and_writes_nothing_of_its_own(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    insert(docs, 30)
    openai.faults.extend([fine, wrong_width, wrong_width])
    run = runs.new(delay=0.001)  # one at a time
    assert run.drain().completed == 10
    [error] = run.errors
    assert isinstance(error, ProviderRefused)
    assert "7 dimensions" in error.cause
    assert statuses(docs) == {"completed": 10, "pending": 20}
    assert runs.drain().completed == 20
    assert unlike_their_text(docs) == []


# -- two models, one of which is refused


@pytest.mark.parametrize("priority", [1, 0, -1])
def test_a_model_that_is_refused_does_not_hold_up_the_other(
    docs: Database, runs: Runs, priority: int
) -> None:
    """Whichever of the two is asked first."""
    docs.execute("create table notes (id bigint primary key, body text)")
    docs.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 8, model => %s,"
        " priority => %s::smallint)",
        ["openai:text-embedding-9", priority],
    )
    docs.execute("insert into notes select i, 'note ' || i from generate_series(1, 30) i")
    insert(docs, 30)
    run = runs.new()
    stats = run.drain()
    assert stats.completed == 30
    [error] = run.errors
    assert isinstance(error, ProviderRefused)
    assert "404" in error.cause
    assert error.hint
    assert rows(
        docs,
        "select table_name, status, max(attempts), bool_and(available_at <= now()), count(*)"
        "  from embedding_queue group by 1, 2 order by 1",
    ) == [("docs", "completed", 0, True, 30), ("notes", "pending", 0, True, 30)]
    assert value(docs, "select count(embedding) from notes") == 0
    assert unlike_their_text(docs) == []


def test_a_key_that_is_refused_stops_every_model_of_its_provider_and_no_other(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    for number, model in enumerate([LARGE, "local:wordllama-256"]):
        docs.execute(
            f"create table notes_{number} (id bigint primary key, body text);"
            f"select watch_embeddings('notes_{number}', 'body', 'embedding',"
            f" dimensions => {256 if number else 8}, model => '{model}');"
            f"insert into notes_{number} select i, 'note ' || i from generate_series(1, 30) i"
        )
    insert(docs, 30)
    runs.key = "sk-revoked-long-ago"
    run = runs.new()
    stats = run.drain()
    assert (stats.completed, stats.failed) == (30, 0)
    assert len(run.errors) == 2
    assert all(" answered 401: " in error.cause for error in run.errors)
    assert value(docs, "select count(embedding) from notes_1") == 30
    pending = "select distinct table_name, bool_and(available_at <= now()) from embedding_queue"
    assert rows(docs, f"{pending} where status = 'pending' group by 1 order by 1") == [
        ("docs", True),
        ("notes_0", True),
    ]


# -- what the database sees of a slow call


def test_nothing_is_open_in_the_database_while_the_model_works(
    docs: Database, runs: Runs, held: Held
) -> None:
    insert(docs, 10)
    # all there is to claim is claimed: the worker has nothing to do but wait
    with under_way(runs.new(limit=10), held) as ending:
        assert statuses(docs) == {"processing": 10}
        for _ in range(10):
            assert rows(
                docs,
                "select distinct state, xact_start, backend_xid, backend_xmin from pg_stat_activity"
                " where application_name = 'tests' and datname = current_database()",
            ) == [("idle", None, None, None)]
            assert (
                rows(
                    docs,
                    "select locktype, relation::regclass::text, mode from pg_locks"
                    "  join pg_stat_activity as backend using (pid)"
                    " where backend.application_name = 'tests' and datname = current_database()",
                )
                == []
            )
        docs.execute("update docs set body = 'written meanwhile' where id = 3")
    stats = ending.result()
    assert (stats.completed, stats.stale) == (9, 1)
