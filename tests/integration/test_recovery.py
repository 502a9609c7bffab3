"""A worker that stays tries a provider again after an error, and after `worker wake` at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, LiteralString

import pytest

from tests import conftest
from tests.acceptance.conftest import statuses
from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.jobs import insert
from tests.integration.runs import LONG, Runs, at_once, unlike_their_text
from tests.integration.test_service import are_done, is_in, serving
from tests.openai_server import (
    Answer,
    Fault,
    OpenAIServer,
    Request,
    answers,
    cut_short,
    hang,
    out_of_quota,
    rate_limited,
    server_error,
    unavailable,
    wrong_width,
)
from worker.embedders.base import Embedder
from worker.engine import breaker, claiming
from worker.engine.pipeline import Pipeline
from worker.errors import SettingsError
from worker.queue import AdminQueue

NEVER = 3600.0  # seconds
ALWAYS = 1_000_000  # faults
eventually = partial(conftest.eventually, within=LONG)

REFUSED = {"error": {"message": "no"}}
TROUBLES: dict[str, Fault] = {
    "500": server_error,
    "503": unavailable,
    "429": rate_limited(),
    "429 for ages": rate_limited(**{"retry-after": "1000000000"}),
    "half an answer": cut_short,
    "401": answers(401, REFUSED),
    "403": answers(403, REFUSED),
    "no credit": out_of_quota,
    "no such model": answers(404, REFUSED),
    "another width": wrong_width,
    "silence": hang,
}
WORK: LiteralString = "select control_embeddings('work')"


@pytest.fixture
def docs(texts: Database) -> Database:
    return texts


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> None:
    """Retries and pauses are short."""
    at_once(monkeypatch, tries_for=0.1)
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.2)


def told(run: Pipeline, *names: str) -> list[str]:
    """The events of these names, in their order."""
    log: Any = run.progress
    return [name for name, _ in log.events if name in names]


def waits(db: Database) -> bool:
    """Whether the worker says that a column waits for a provider or a model."""
    causes = rows(db, "select cause from embedding_workers where state = 'waiting'")
    return any("1 column waits for openai" in str(cause) for (cause,) in causes)


def spoil(openai: OpenAIServer, fault: Fault, is_spoiled: Callable[[Request], bool]) -> None:
    """From now on the answers to some requests are spoiled."""
    due = openai.due

    def spoiled(request: Request) -> Answer:
        answer = fault(due(request)) if is_spoiled(request) else due(request)
        assert answer is not None
        return answer

    openai.due = spoiled  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", rest_in_full(TROUBLES.values(), 10), ids=list(TROUBLES))
def test_whatever_the_trouble_work_goes_on_when_it_is_over(
    docs: Database,
    runs: Runs,
    openai: OpenAIServer,
    queue: AdminQueue,
    hurried: None,
    fault: Fault,
) -> None:
    if fault is hang:
        runs.timeout = 1.0  # time for an answer beside other processes
    with serving(runs) as run:
        for round in (1, 2):
            openai.faults.extend([fault] * ALWAYS)
            docs.execute(
                "insert into docs select i, 'text ' || i from generate_series(%s::int, %s::int) i",
                [30 * round - 29, 30 * round],
            )
            eventually(lambda: waits(docs))
            assert value(docs, "select max(attempts) from embedding_queue") == 0
            openai.faults.clear()
            eventually(are_done(docs, 30 * round))
            eventually(lambda: queue.overview().providers == [])
            eventually(lambda: not run.errors)
    stopped = told(run, "provider_stopped", "provider_back")
    assert stopped == ["provider_stopped", "provider_back"] * (len(stopped) // 2)
    assert told(run, "model_unusable")
    assert value(docs, "select max(attempts) from embedding_queue") == 0
    assert unlike_their_text(docs) == []


def test_a_model_that_cannot_be_opened_is_opened_when_it_can(
    docs: Database, runs: Runs, hurried: None
) -> None:
    refusals: list[int] = []

    def refuse(model: str, width: int | None, prompt: str | None = None) -> Embedder:
        refusals.append(1)
        if len(refusals) < 4:
            raise SettingsError("a package is missing")
        return runs.open(model, width, prompt)

    runs.open_embedder = refuse
    insert(docs, 30)
    with serving(runs) as run:
        eventually(are_done(docs, 30))
    assert len(told(run, "model_unusable")) == 3


def test_a_table_that_is_locked_for_long_does_not_end_it(
    docs: Database,
    runs: Runs,
    connect: Callable[[], Database],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claiming, "LOCKED_TIMEOUT", 0.1)
    insert(docs, 3)
    writer = connect()
    writer.execute("begin")
    writer.execute("lock table docs in access exclusive mode")
    cause = "select cause from embedding_workers where state = 'waiting'"
    with serving(runs):
        eventually(lambda: "locked" in str(rows(docs, cause)))
        writer.execute("rollback")
        eventually(are_done(docs, 3))


def test_a_retry_takes_one_job_and_one_request(
    docs: Database, runs: Runs, openai: OpenAIServer, hurried: None
) -> None:
    insert(docs, 500)
    openai.faults.extend([answers(401, REFUSED)] * ALWAYS)
    with serving(runs) as run:
        eventually(lambda: waits(docs))
        before, released = len(openai.requests), run.stats.released
        eventually(lambda: len(openai.requests) >= before + 5)
        tries = len(openai.requests) - before
        assert run.stats.released - released <= tries + 1
        assert {len(request.texts) for request in openai.requests[before:]} == {1}
    assert statuses(docs) == {"pending": 500}


@pytest.fixture
def only_when_woken(monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    """A provider that failed is not tried again by itself."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE", NEVER)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", NEVER)


@pytest.mark.parametrize(
    "fault", rest_in_full([unavailable, answers(401, REFUSED), answers(404, REFUSED)])
)
def test_an_order_to_work_tries_again_at_once(
    docs: Database, runs: Runs, openai: OpenAIServer, only_when_woken: None, fault: Fault
) -> None:
    insert(docs, 30)
    openai.faults.extend([fault] * ALWAYS)
    with serving(runs) as run:
        eventually(lambda: waits(docs))
        openai.faults.clear()
        asked = len(openai.requests)
        docs.execute("insert into docs values (100, 'another')")
        eventually(is_in(docs, "waiting"))
        assert len(openai.requests) == asked
        docs.execute(WORK)
        eventually(are_done(docs, 31))
    assert run.errors == []


def test_so_it_does_while_another_column_keeps_the_worker_busy(
    docs: Database, runs: Runs, openai: OpenAIServer, only_when_woken: None
) -> None:
    docs.execute("create table notes (id bigint primary key, body text)")
    docs.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 8,"
        " model => 'openai:text-embedding-3-large')"
    )
    insert(docs, 30)
    refused = "text-embedding-3-small"
    due = openai.due
    spoil(openai, answers(404, REFUSED), lambda request: request.body["model"] == refused)
    busy = "select count(*) from embedding_queue where status = 'completed'"
    with serving(runs) as run:
        eventually(lambda: run.errors)
        openai.latency = 0.02
        docs.execute("insert into notes select i, 'note ' || i from generate_series(1, 5000) i")
        eventually(lambda: value(docs, busy) > 100)
        openai.due = due  # type: ignore[method-assign]
        docs.execute(WORK)
        eventually(lambda: value(docs, "select count(embedding) from docs") == 30)
        assert value(docs, busy) < 5030, "and not only when that is done"


def test_one_run_leaves_it_alone(
    docs: Database, runs: Runs, openai: OpenAIServer, hurried: None
) -> None:
    insert(docs, 300)
    openai.faults.extend([answers(401, REFUSED)] * ALWAYS)
    run = runs.new()
    stats = run.drain()
    assert [error.exit_code for error in run.errors] == [4]
    assert stats.settled == 0
    assert len(openai.requests) < 2 * 20 + 1


def test_asleep_it_remembers_what_it_told_of_a_provider(
    docs: Database, runs: Runs, openai: OpenAIServer, queue: AdminQueue, hurried: None
) -> None:
    insert(docs, 1)
    openai.faults.extend([unavailable] * ALWAYS)
    with serving(runs, sleep_after=0.3) as run:
        eventually(lambda: queue.overview().providers)
        docs.execute("delete from docs")
        eventually(is_in(docs, "asleep"))
        openai.faults.clear()
        docs.execute("insert into docs values (100, 'text')")
        eventually(are_done(docs, 1))
        eventually(lambda: queue.overview().providers == [])
    assert told(run, "provider_stopped", "provider_back") == ["provider_stopped", "provider_back"]


# -- one answer among good ones


ONE_ANSWER: dict[str, Callable[[], Fault]] = {
    "401": lambda: answers(401, REFUSED),
    "403 of a proxy": lambda: answers(403, b"<html>Forbidden</html>"),
    "no credit": lambda: out_of_quota,
    "no such model": lambda: answers(404, REFUSED),
    "another width": lambda: wrong_width,
    "429 for ages": lambda: rate_limited(**{"retry-after": "1e9"}),
    "503 for ages": lambda: answers(503, REFUSED, **{"retry-after": "1e9"}),
}


@pytest.mark.parametrize("fault", rest_in_full(ONE_ANSWER.values(), first=2), ids=list(ONE_ANSWER))
def test_one_answer_stops_nobody(
    docs: Database,
    runs: Runs,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[], Fault],
) -> None:
    """The rest is done, by a run that leaves alone what it gives up, and without a long wait."""
    monkeypatch.setattr("worker.engine.limiter.LONGEST_RETRY_AFTER", 0.1)
    monkeypatch.setattr("worker.engine.retry.LONGEST_RETRY_AFTER", 0.1)
    at_once(monkeypatch)
    insert(docs, 100)
    openai.faults.extend([lambda due: due] * 3 + [fault()])
    run = runs.new()
    stats = run.drain()
    assert (stats.completed, stats.released, run.errors) == (100, 0, [])
    assert value(docs, "select max(attempts) from embedding_queue") == 0


def test_a_text_that_a_proxy_forbids_is_blamed_alone(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    insert(docs, 50)
    spoil(openai, ONE_ANSWER["403 of a proxy"](), lambda request: "text 7" in request.texts)
    run = runs.new()
    stats = run.drain()
    assert (stats.completed, stats.failed, run.errors) == (49, 1, [])
    assert rows(
        docs, "select record_id, error_class, attempts from embedding_queue where status = 'failed'"
    ) == [("7", "unauthorized", 5)]


def test_an_unexpected_error_of_an_embedder_hands_its_jobs_back(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    insert(docs, 30)

    def open_broken(model: str, width: int | None, prompt: str | None = None) -> Embedder:
        embedder = runs.open(model, width, prompt)

        def embed(texts: object, role: object) -> Any:
            raise ValueError(f"a secret in {texts}")

        embedder.embed = embed  # type: ignore[method-assign]
        return embedder

    runs.open_embedder = open_broken
    run = runs.new()
    run.drain()
    [error] = run.errors
    assert error.cause == "openai:text-embedding-3-small failed with ValueError"
    assert rows(docs, "select distinct status, attempts from embedding_queue") == [("pending", 0)]
