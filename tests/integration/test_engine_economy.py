"""What is asked of providers, and what it costs: nothing twice, and nothing that nobody counts."""

from __future__ import annotations

from concurrent.futures import ALL_COMPLETED, ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from tests.acceptance.conftest import Held, statuses
from tests.conftest import Database, eventually, rows, value
from tests.integration.jobs import insert
from tests.integration.runs import LONG, Runs, at_once, under_way, unlike_their_text
from tests.openai_server import Answer, OpenAIServer, vector_for
from worker.queue.postgres import PostgresQueue

PRICE = 0.02  # US dollars for a million tokens of text-embedding-3-small
THREE = "insert into docs select i, 'text ' || i % 3 from generate_series(1, 300) i"


@pytest.fixture
def docs(texts: Database) -> Database:
    return texts


def texts_sent(openai: OpenAIServer) -> list[str]:
    return [text for request in openai.requests for text in request.texts]


def test_equal_texts_are_sent_once_and_paid_once(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    docs.execute(THREE)
    stats = runs.new(batch_size=300).drain()
    assert stats.completed == 300
    assert sorted(texts_sent(openai)) == ["text 0", "text 1", "text 2"]
    assert (stats.requests, stats.tokens) == (1, 6)
    assert stats.cost == pytest.approx(6 * PRICE / 1e6)
    assert value(docs, "select sum(cost) from embedding_queue") == pytest.approx(stats.cost)
    assert unlike_their_text(docs) == []


def test_equal_texts_of_later_batches_wait_for_the_one_that_is_under_way(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    openai.latency = 0.3
    docs.execute(THREE)
    assert runs.drain(batch_size=10).completed == 300
    assert len(texts_sent(openai)) < 30
    assert unlike_their_text(docs) == []


def test_a_text_that_is_refused_fails_all_who_have_it(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    openai.reject = lambda text: text == "text 1"
    docs.execute(THREE)
    stats = runs.drain(batch_size=300)
    assert (stats.completed, stats.failed) == (200, 100)
    jobs = "docs join embedding_queue on record_id = docs.id::text"
    failed = f"select distinct body, error_class from {jobs} where status = 'failed'"
    assert rows(docs, failed) == [("text 1", "rejected")]


def test_who_is_edited_while_his_twin_is_embedded_gets_a_vector_of_his_own(
    docs: Database, runs: Runs, held: Held
) -> None:
    docs.execute(THREE)
    run = runs.new(batch_size=300)
    with under_way(run, held) as ending:
        docs.execute("update docs set body = 'another' where id = 4")
    assert ending.result(LONG).stale == 1
    assert unlike_their_text(docs) == []
    assert statuses(docs) == {"completed": 300}


@pytest.mark.parametrize("edited_to", ["new", "old"])
@pytest.mark.parametrize("twin_of", ["new", "old"])
def test_a_job_that_is_claimed_again_while_its_old_text_is_under_way_shares_no_twins(
    docs: Database,
    runs: Runs,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    edited_to: str,
    twin_of: str,
) -> None:
    """Both requests of the job are answered at once, and one of its texts is that of a twin."""
    monkeypatch.setattr("worker.engine.in_flight.FIRST_COMPLETED", ALL_COMPLETED)
    asked = Event()
    all_claimed = Event()

    def hold(due: Answer) -> Answer:
        asked.set()
        assert all_claimed.wait(LONG)
        return due

    openai.faults += [hold, hold]
    docs.execute("insert into docs values (1, 'old')")
    run = runs.new(batch_size=1)
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run.drain)
        assert asked.wait(LONG)
        with docs.transaction():  # or it could be claimed between the two
            docs.execute("update docs set body = %s where id = 1", [edited_to])
            docs.execute("update embedding_queue set status = 'pending' where record_id = '1'")
        docs.execute("insert into docs values (2, %s)", [twin_of])
        pending = "select count(*) from embedding_queue where status = 'pending'"
        eventually(lambda: value(docs, pending) == 0, LONG)
        all_claimed.set()
        stats = ending.result(LONG)
    assert unlike_their_text(docs) == []
    assert statuses(docs) == {"completed": 2}
    assert (stats.completed, stats.stale) == (2, 1)


def test_what_is_in_the_cache_is_not_paid_for_again(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    insert(docs, 30)
    assert runs.drain(cache_mb=10).cached == 0
    openai.requests.clear()
    docs.execute("update docs set embedding = null")
    docs.execute("update embedding_queue set status = 'pending', content_hash = null")
    stats = runs.drain(cache_mb=10)
    assert (stats.completed, stats.cached, stats.requests, stats.cost) == (30, 30, 0, 0.0)
    assert openai.requests == []
    assert unlike_their_text(docs) == []


def test_a_column_of_another_width_has_nothing_in_the_cache(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    insert(docs, 5)
    runs.drain(cache_mb=10)
    docs.execute("create table notes (id bigint primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 16)")
    docs.execute("insert into notes select id, body from docs")
    openai.requests.clear()
    assert runs.drain(cache_mb=10).cached == 0
    assert len(texts_sent(openai)) == 5
    for body, vector in rows(docs, "select body, embedding::real[] from notes"):
        assert np.allclose(vector, vector_for(body, 16), atol=1e-6)


def test_the_minute_counts_what_the_run_asked_for(docs: Database, runs: Runs) -> None:
    insert(docs, 30)
    stats = runs.drain()
    counted = "select model, completed, failed, requests, tokens, cost::real from embedding_usage"
    [(model, completed, failed, requests, tokens, cost)] = rows(docs, counted)
    assert model == "openai:text-embedding-3-small"
    assert (completed, failed, requests, tokens) == (30, 0, stats.requests, stats.tokens)
    assert cost == pytest.approx(stats.cost)


def test_a_provider_that_refuses_the_key_is_named_until_it_does_not(
    docs: Database, runs: Runs, queue: PostgresQueue
) -> None:
    insert(docs, 5)
    runs.key = "sk-revoked-long-ago"
    runs.drain()
    [stopped] = queue.overview().providers
    assert stopped.provider == "openai"
    assert " answered 401: " in stopped.error
    assert "OPENAI_API_KEY" in str(stopped.hint)
    classes = "select distinct error_class, status from embedding_queue"
    assert rows(docs, classes) == [("unauthorized", "pending")]
    runs.key = None
    assert runs.drain().completed == 5
    assert queue.overview().providers == []


def test_a_text_over_which_the_provider_falls_silent_is_set_back_alone(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    runs.timeout = 0.5
    openai.stall = lambda text: text == "text 7"
    insert(docs, 16)
    stats = runs.drain(batch_size=16, limit=16)
    assert stats.completed == 15
    held = "select record_id, status, error_class, attempts from embedding_queue"
    assert rows(docs, f"{held} where status <> 'completed'") == [("7", "pending", "timed_out", 1)]


def test_a_provider_that_is_slow_does_not_hold_up_another(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    docs.execute("create table notes (id bigint primary key, body text)")
    docs.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 256,"
        " model => 'local:wordllama-256')"
    )
    openai.latency = 1.0
    insert(docs, 400)
    docs.execute("insert into notes select i, 'note ' || i from generate_series(1, 400) i")
    local_done: list[float] = []

    class Watcher:
        def update(self, stats: object) -> None:
            done = "select count(*) from notes where embedding is null"
            if not local_done and value(docs, done) == 0:
                local_done.append(run.stats.elapsed)

        def pulse(self) -> None:
            pass

        def event(self, name: str, **fields: object) -> None:
            pass

    run = runs.new(batch_size=10, progress=Watcher())
    assert run.drain().completed == 800
    assert local_done[0] < run.stats.elapsed - 0.9


def test_texts_that_are_long_are_claimed_by_the_few(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engine.claiming.MOST_CHARACTERS", 20_000)
    monkeypatch.setattr("worker.engine.options.TEXTS_A_REQUEST", 10)
    openai.latency = 0.02
    docs.execute(
        "insert into docs select i, i || repeat(' word', 200) from generate_series(1, 120) i"
    )
    held: list[int] = []

    class Watcher:
        def update(self, stats: object) -> None:
            claimed = "select count(*) from embedding_queue where status = 'processing'"
            held.append(value(docs, claimed))

        def pulse(self) -> None:
            pass

        def event(self, name: str, **fields: object) -> None:
            pass

    run = runs.new(batch_size=None, progress=Watcher())
    assert run.drain().completed == 120
    assert max(held) <= 60, "what is in hand, and one claim beside it"


@pytest.mark.parametrize("silent", [False, True], ids=["said", "unsaid"])
def test_a_provider_that_limits_the_rate_gets_everything_done(
    docs: Database, runs: Runs, silent: bool
) -> None:
    with OpenAIServer(rpm=1800, burst=5, silent=silent) as limited:
        runs.server = limited
        insert(docs, 60)
        stats = runs.drain(batch_size=1)
        assert (stats.completed, stats.released, stats.failed) == (60, 0, 0)
        assert len(limited.refused) <= 30
    assert statuses(docs) == {"completed": 60}
