"""The engine between a real database and a server that speaks OpenAI's dialect."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event

import numpy as np
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import expire_leases, insert
from tests.integration.runs import at_once
from tests.openai_server import (
    Answer,
    Fault,
    OpenAIServer,
    not_a_number,
    out_of_quota,
    rate_limited,
    server_error,
    vector_for,
    wrong_width,
    zeros,
)
from worker.chunking.documents import split_document
from worker.embedders.base import Embedder
from worker.embedders.registry import open_embedder
from worker.engine import writing
from worker.engine.pipeline import Pipeline, RunOptions
from worker.engine.progress import RunStats
from worker.errors import ProviderRefused, SettingsError, Transient
from worker.queue import AdminQueue, Claim, Scope
from worker.settings import Settings

MODEL = "openai:text-embedding-3-small"
TEN_AT_ONCE = RunOptions(batch_size=10)
SCOPE = Scope("test", timedelta(minutes=5), MODEL)


@dataclass
class Watcher:
    """Sees the tally after each batch, and may do something about it."""

    then: Callable[[RunStats], object] = lambda stats: None

    def update(self, stats: RunStats) -> None:
        self.then(stats)

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        pass


@pytest.fixture
def texts(db: Database) -> Database:
    """A table `docs` watched into a column as wide as the model."""
    db.execute("create table docs (id integer primary key, body text, views integer)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 1536)")
    return db


NewPipeline = Callable[..., Pipeline]


@pytest.fixture
def pipeline(queue: AdminQueue, openai: OpenAIServer) -> NewPipeline:
    def pipeline(
        options: RunOptions = TEN_AT_ONCE,
        then: Callable[[RunStats], object] = lambda stats: None,
        stop: Event | None = None,
        key: str | None = None,
        before_opening: Callable[[], object] = lambda: None,
    ) -> Pipeline:
        settings = Settings(
            openai_api_key=key or openai.api_key,
            openai_base_url=openai.base_url,
            embedding_timeout_seconds=5,
        )

        def open_model(model: str, width: int | None, prompt: str | None = None) -> Embedder:
            before_opening()
            return open_embedder(model, width, settings, prompt)

        return Pipeline(
            queue=queue,
            open_embedder=open_model,
            split=split_document,
            scope=SCOPE,
            options=options,
            progress=Watcher(then),
            stop=stop or Event(),
        )

    return pipeline


def test_every_due_job_is_embedded_with_its_own_text(
    texts: Database, pipeline: NewPipeline
) -> None:
    insert(texts, 25)
    stats = pipeline().drain()
    assert (stats.completed, stats.failed) == (25, 0)
    for record, body, vector in rows(texts, "select id, body, embedding::real[] from docs"):
        assert body == f"text {record}"
        assert np.allclose(vector, vector_for(body, 1536), atol=1e-6)


def test_tokens_are_counted_as_the_provider_reports_them(
    texts: Database, pipeline: NewPipeline
) -> None:
    insert(texts, 12)
    stats = pipeline().drain()
    assert stats.tokens
    assert value(texts, "select sum(tokens) from embedding_queue") == stats.tokens


def test_one_bad_row_fails_alone_with_the_words_of_the_provider(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer
) -> None:
    insert(texts, 50)
    openai.reject = lambda text: text == "text 17"
    stats = pipeline(RunOptions(batch_size=50)).drain()
    assert (stats.completed, stats.failed) == (49, 1)
    [(record, error_class, message)] = rows(
        texts,
        "select record_id, error_class, error_message from embedding_queue where status = 'failed'",
    )
    assert (record, error_class) == ("17", "rejected")
    assert "400" in message


@pytest.mark.parametrize("fault", [not_a_number, zeros])
def test_a_useless_vector_is_never_stored(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer, fault: Fault
) -> None:
    insert(texts, 1)
    openai.faults.extend([fault, fault])
    assert pipeline().drain().failed == 1
    assert rows(texts, "select status, error_class from embedding_queue") == [
        ("failed", "bad_vector")
    ]
    assert value(texts, "select embedding from docs") is None


def test_a_provider_that_stumbles_is_tried_again_within_the_request(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer
) -> None:
    insert(texts, 5)
    openai.faults.extend([rate_limited(**{"retry-after": "0"}), server_error])
    stats = pipeline().drain()
    assert (stats.completed, stats.released) == (5, 0)
    assert len(openai.requests) == 3
    assert value(texts, "select max(attempts) from embedding_queue") == 0


def test_an_outage_hands_the_jobs_back_untouched_and_ends_the_run(
    texts: Database,
    pipeline: NewPipeline,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch, tries_for=0.05)
    insert(texts, 30)
    openai.faults.extend([server_error] * 100)
    run = pipeline()
    stats = run.drain()
    [error] = run.errors
    assert isinstance(error, Transient)
    assert (stats.completed, stats.failed) == (0, 0)
    assert rows(
        texts, "select status, max(attempts), count(*) from embedding_queue group by status"
    ) == [("pending", 0, 30)]
    assert value(texts, "select count(*) from embedding_queue where available_at <= now()") == 30


@pytest.mark.parametrize("error", ["key", "quota", "width"])
def test_a_refusal_hands_every_job_back_untouched_and_due(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer, error: str
) -> None:
    insert(texts, 30)
    if error == "quota":
        openai.faults.extend([out_of_quota] * 10)
    if error == "width":
        openai.faults.extend([wrong_width] * 10)
    run = pipeline(key="sk-revoked" if error == "key" else None)
    run.drain()
    [refusal] = run.errors
    assert isinstance(refusal, ProviderRefused)
    assert refusal.hint
    assert rows(
        texts, "select status, max(attempts), count(*) from embedding_queue group by status"
    ) == [("pending", 0, 30)]
    assert value(texts, "select count(*) from embedding_queue where available_at <= now()") == 30


def test_a_column_of_another_width_is_found_before_anything_is_paid(
    db: Database, pipeline: NewPipeline, openai: OpenAIServer
) -> None:
    db.execute("create table docs (id integer primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 2000)")
    insert(db, 3)
    run = pipeline()
    run.drain()
    [refusal] = run.errors
    assert isinstance(refusal, ProviderRefused)
    assert "1536" in refusal.cause
    assert "2000" in refusal.cause
    assert len(openai.requests) == 0


def test_a_model_that_does_not_exist_hands_the_jobs_back(
    texts: Database, pipeline: NewPipeline
) -> None:
    texts.execute("update embedding_targets set model = 'nobody:nothing'")
    insert(texts, 3)
    run = pipeline()
    run.drain()
    assert isinstance(run.errors[0], SettingsError)
    assert rows(texts, "select distinct status, attempts from embedding_queue") == [("pending", 0)]


def test_the_limit_is_exact(texts: Database, pipeline: NewPipeline) -> None:
    insert(texts, 50)
    assert pipeline(RunOptions(batch_size=7, limit=23)).drain().completed == 23
    assert value(texts, "select count(*) from embedding_queue where status = 'completed'") == 23
    assert value(texts, "select count(*) from embedding_queue where status = 'processing'") == 0


def test_with_a_delay_batches_go_one_at_a_time(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer
) -> None:
    insert(texts, 30)
    processing: list[int] = []
    written: list[float] = []
    asked: list[float] = []

    def note(due: Answer) -> Answer:
        asked.append(time.monotonic())
        return due

    openai.faults.extend([note] * 3)

    def look(stats: RunStats) -> None:
        written.append(time.monotonic())
        processing.append(
            value(texts, "select count(*) from embedding_queue where status = 'processing'")
        )

    pipeline(RunOptions(batch_size=10, delay=0.2), then=look).drain()
    assert processing == [0, 0, 0]
    assert [len(request.texts) for request in openai.requests] == [10, 10, 10]
    pauses = [begin - end for end, begin in zip(written[:-1], asked[1:], strict=True)]
    assert min(pauses) >= 0.2


@pytest.mark.parametrize("at_once", [1, 2 * 1536 * 4])
def test_vectors_that_are_written_in_parts_are_all_written(
    texts: Database, pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(writing, "BYTES_AT_ONCE", at_once)
    insert(texts, 25)
    assert pipeline(RunOptions(batch_size=25)).drain().completed == 25
    assert rows(texts, "select status, count(*) from embedding_queue group by 1") == [
        ("completed", 25)
    ]
    assert value(texts, "select count(embedding) from docs") == 25


def test_without_a_delay_batches_overlap_and_stay_bounded(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer
) -> None:
    insert(texts, 300)
    openai.latency = 0.2  # longer than a claim takes on a busy machine
    claimed: list[int] = []

    def look(stats: RunStats) -> None:
        claimed.append(
            value(texts, "select count(*) from embedding_queue where status = 'processing'")
        )

    pipeline(then=look).drain()
    assert 10 < max(claimed) <= 180


def test_claims_that_take_long_become_smaller(
    texts: Database, pipeline: NewPipeline, queue: AdminQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engine.claiming.SLOW_CLAIM", -1.0)
    insert(texts, 200)
    sizes: list[int] = []
    claim = queue.claim

    def noted(scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        sizes.append(batch_size)
        return claim(scope, batch_size, except_targets)

    monkeypatch.setattr(queue, "claim", noted)
    assert pipeline(RunOptions()).drain().completed == 200
    assert sizes[:8] == [100, 50, 25, 12, 6, 3, 1, 1]


def test_a_stop_finishes_what_is_under_way_and_claims_no_more(
    texts: Database, pipeline: NewPipeline
) -> None:
    insert(texts, 300)
    stop = Event()
    stats = pipeline(then=lambda stats: stop.set(), stop=stop).drain()
    assert 0 < stats.completed < 300
    assert rows(
        texts, "select status, count(*) from embedding_queue group by status order by 1"
    ) == [("completed", stats.completed), ("pending", 300 - stats.completed)]


def test_a_row_that_is_locked_for_a_moment_is_written_by_the_second_try(
    texts: Database,
    connect: Callable[[], Database],
    pipeline: NewPipeline,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insert(texts, 3)
    writer = connect()

    def lock(due: Answer) -> Answer:
        writer.execute("begin")
        writer.execute("update docs set views = 1 where id = 2")
        return due

    openai.faults.append(lock)
    run = pipeline()
    monkeypatch.setattr(run.stop, "wait", lambda seconds: writer.execute("rollback"))
    stats = run.drain()
    assert (stats.completed, stats.released) == (3, 0)
    assert len(openai.requests) == 1


def test_a_row_that_is_locked_for_long_is_handed_back_and_due_again(
    texts: Database, connect: Callable[[], Database], pipeline: NewPipeline
) -> None:
    insert(texts, 3)
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set views = 1 where id = 2")
        stats = pipeline().drain()
    assert (stats.completed, stats.released) == (2, 1)
    assert rows(
        texts, "select record_id, status, attempts from embedding_queue where status <> 'completed'"
    ) == [("2", "pending", 0)]
    texts.execute("update embedding_queue set available_at = now() where status = 'pending'")
    assert pipeline().drain().completed == 1


def test_a_row_that_is_locked_whenever_its_vector_comes_is_paid_for_ten_times_at_most(
    texts: Database,
    connect: Callable[[], Database],
    pipeline: NewPipeline,
    openai: OpenAIServer,
) -> None:
    insert(texts, 1)
    writer = connect()

    def locked_meanwhile(due: Answer) -> Answer:
        writer.execute("begin; select from docs for update")
        return due

    for _ in range(12):
        openai.faults.append(locked_meanwhile)
        pipeline().drain()
        writer.execute("rollback")
        texts.execute("update embedding_queue set available_at = now() where status = 'pending'")
    assert len(openai.requests) == 10
    assert rows(texts, "select status, error_class, error_message from embedding_queue") == [
        ("failed", "unwritten", "embedded 10 times, never written: its row was locked")
    ]


def test_a_source_that_is_no_function_of_the_row_fails_after_its_attempts(
    texts: Database, pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts.execute("update embedding_targets set source = 'body || random()::text'")
    insert(texts, 2)
    asked: list[tuple[str, int]] = []

    def at_once(error_class: str, failures: int) -> timedelta:
        asked.append((error_class, failures))
        return timedelta(0)

    monkeypatch.setattr("worker.engine.writing.backoff", at_once)
    stats = pipeline().drain()
    assert stats.failed == 2
    assert sorted(asked) == sorted([("changed", failures) for failures in range(1, 6)] * 2)
    assert rows(texts, "select distinct status, error_class, attempts from embedding_queue") == [
        ("failed", "changed", 5)
    ]


def test_a_table_locked_as_a_whole_is_waited_for(
    texts: Database,
    connect: Callable[[], Database],
    pipeline: NewPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insert(texts, 3)
    writer = connect()
    writer.execute("begin")
    writer.execute("lock table docs in access exclusive mode")
    run = pipeline()
    monkeypatch.setattr(run.stop, "wait", lambda seconds: writer.execute("rollback"))
    assert run.drain().completed == 3


def test_two_models_in_one_queue_are_each_asked_for_their_own(
    texts: Database, pipeline: NewPipeline, openai: OpenAIServer
) -> None:
    texts.execute(
        "select watch_embeddings('docs', 'body', 'large', dimensions => 3072,"
        " model => 'openai:text-embedding-3-large')"
    )
    insert(texts, 4)
    assert pipeline().drain().completed == 8
    assert rows(
        texts, "select embedding_column, model from embedding_queue group by 1, 2 order by 1"
    ) == [("embedding", MODEL), ("large", "openai:text-embedding-3-large")]


def test_a_narrower_column_is_filled_with_shortened_vectors(
    db: Database, pipeline: NewPipeline
) -> None:
    db.execute("create table docs (id integer primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 512)")
    insert(db, 2)
    assert pipeline().drain().completed == 2
    assert value(db, "select vector_dims(embedding) from docs limit 1") == 512


def test_a_worker_elsewhere_may_take_over_at_any_moment(
    texts: Database, pipeline: NewPipeline, queue: AdminQueue
) -> None:
    """Leases that run out while the model works: the result is dropped, and counted."""
    insert(texts, 1)
    thief = replace(SCOPE, worker="thief")
    stolen: list[str] = []

    def steal() -> None:
        expire_leases(texts)
        stolen.extend(str(job.lease) for job in queue.claim(thief, 1).jobs)

    stats = pipeline(before_opening=steal).drain()
    assert stolen
    assert (stats.stale, stats.completed) == (1, 0)
    assert value(texts, "select lease::text from embedding_queue") == stolen[0]


def test_jobs_that_wait_for_the_text_of_another_are_bounded_as_well(
    texts: Database,
    pipeline: NewPipeline,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.engine.claiming.MOST_JOBS", 100)
    texts.execute("insert into docs select i, 'the same' from generate_series(1, 1000) i")
    openai.latency = 0.05
    claimed: list[int] = []

    def look(stats: RunStats) -> None:
        claimed.append(
            value(texts, "select count(*) from embedding_queue where status = 'processing'")
        )

    stats = pipeline(then=look).drain()
    assert stats.completed == 1000
    assert max(claimed) <= 110
    assert all(request.texts == ["the same"] for request in openai.requests)
