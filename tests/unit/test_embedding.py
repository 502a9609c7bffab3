"""Jobs become checked vectors, against a server that speaks OpenAI's dialect, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from math import ceil, log2
from threading import Event
from uuid import uuid4

import numpy as np
import pytest

from tests.openai_server import (
    Answer,
    Fault,
    OpenAIServer,
    answers,
    not_a_number,
    out_of_quota,
    rate_limited,
    too_few_items,
    unavailable,
    vector_for,
    with_items,
    without_usage,
    wrong_width,
    zeros,
)
from worker.embedders.base import Embedder
from worker.embedders.openai import OpenAIEmbedder
from worker.engine import embedding, limiter, retry
from worker.engine.embedding import BLAMED_AFTER, Outcome
from worker.engine.limiter import Limiter
from worker.engine.models import Model
from worker.engine.providers import PROBES, Provider
from worker.errors import ProviderRefused, Transient
from worker.queue import Job, JobId
from worker.settings import Settings

WIDTH = 8


@pytest.fixture(scope="module")
def running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    monkeypatch.setattr(limiter, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(
        retry, "RATE_LIMIT_SECONDS", 0.0
    )  # one try; test_retry.py is about the others
    running_server.requests.clear()
    running_server.faults.clear()
    running_server.reject = running_server.stumble = None
    return running_server


@pytest.fixture(scope="module")
def long_lived_embedder(running_server: OpenAIServer) -> Iterator[OpenAIEmbedder]:
    with closing(embedder_for(running_server)) as embedder:
        yield embedder


@pytest.fixture
def embedder(server: OpenAIServer, long_lived_embedder: OpenAIEmbedder) -> Iterator[OpenAIEmbedder]:
    request_limits = long_lived_embedder.request_limits
    yield long_lived_embedder
    long_lived_embedder.request_limits = request_limits


def embed(embedder: Embedder, jobs: list[Job], stop: Event) -> Outcome:
    """As in a run, with a provider of which nothing is known yet."""
    with ThreadPoolExecutor(1) as pool:
        provider = Provider("openai", Limiter(embedder.concurrency), pool)
        return embedding.embed(Model(embedder=embedder, provider=provider), jobs, stop)


def embedder_for(
    server: OpenAIServer, name: str = "text-embedding-3-small", dimensions: int | None = WIDTH
) -> OpenAIEmbedder:
    settings = Settings(openai_api_key=server.api_key, openai_base_url=server.base_url)
    return OpenAIEmbedder(name, dimensions, settings)


def jobs_for(*texts: str, dimensions: int | None = WIDTH) -> list[Job]:
    return [
        Job(
            id=JobId(number),
            target_id=1,
            table_name="docs",
            record_id=str(number),
            embedding_column="embedding",
            content=text,
            content_hash=b"",
            lease=uuid4(),
            model="openai:text-embedding-3-small",
            dimensions=dimensions,
            attempts=1,
        )
        for number, text in enumerate(texts)
    ]


def test_a_text_is_isolated_for_its_length_only_if_its_tokens_cannot_be_counted(
    embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_for("a" * 25_000, "a" * 25_000)  # each may have more than 8191 tokens
    with ThreadPoolExecutor(1) as pool:
        model = Model(
            embedder=embedder, provider=Provider("openai", Limiter(embedder.concurrency), pool)
        )
        monkeypatch.setattr(embedder, "count", None)
        assert model.requests(jobs, most=10) == [[job] for job in jobs]
        monkeypatch.setattr(embedder, "count", lambda text: 3125)
        assert model.requests(jobs, most=10) == [jobs]


def numbered(count: int, *, guilty: tuple[int, ...] = ()) -> list[Job]:
    return jobs_for(
        *(f"guilty {number}" if number in guilty else f"text {number}" for number in range(count))
    )


def ids(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


def completed(outcome: Outcome) -> list[int]:
    """The ids of what is done, after a look at each vector."""
    for completion in outcome.completions:
        width = len(completion.vector)
        assert np.array_equal(completion.vector, vector_for(completion.job.content, width))
    return ids([completion.job for completion in outcome.completions])


def rejected(outcome: Outcome) -> dict[int, str]:
    return {job.id: refusal.error_class for job, refusal in outcome.rejected}


def in_item(index: int, fault: Fault) -> Fault:
    """The fault in one item of the answer only."""

    def spoil(due: Answer) -> Answer:
        spoiled, body = fault(due), json.loads(due.body)
        assert spoiled is not None
        body["data"][index] = json.loads(spoiled.body)["data"][index]
        return replace(due, body=json.dumps(body).encode())

    return spoil


def no_fault(due: Answer) -> Answer:
    return due


def test_every_job_gets_the_vector_of_its_text_and_its_tokens(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    outcome = embed(embedder, jobs_for("one", "two words", "ünïcödé 😀"), Event())
    assert completed(outcome) == [0, 1, 2]
    assert [completion.tokens for completion in outcome.completions] == [1, 2, 5]
    assert (outcome.rejected, outcome.unfinished, outcome.error) == ([], [], None)
    assert len(server.requests) == 1


def test_tokens_are_none_where_the_provider_does_not_say(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(without_usage)
    outcome = embed(embedder, numbered(2), Event())
    assert [completion.tokens for completion in outcome.completions] == [None, None]


def test_more_jobs_than_a_request_holds_go_in_several(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    embedder.request_limits = replace(embedder.request_limits, items=10)
    outcome = embed(embedder, numbered(25), Event())
    assert completed(outcome) == list(range(25))
    assert [len(request.texts) for request in server.requests] == [9, 9, 7]


# Refused texts


@pytest.mark.parametrize("guilty", [0, 21, 42, 63])
def test_one_refused_text_in_64_is_found_by_halving_and_costs_none_of_its_neighbours(
    server: OpenAIServer, embedder: OpenAIEmbedder, guilty: int
) -> None:
    server.reject = lambda text: text.startswith("guilty")
    outcome = embed(embedder, numbered(64, guilty=(guilty,)), Event())
    assert rejected(outcome) == {guilty: "rejected"}
    assert completed(outcome) == [number for number in range(64) if number != guilty]
    assert (outcome.unfinished, outcome.error) == ([], None)
    assert len(server.requests) - 1 <= 2 * log2(64) + 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 33, 63])
def test_halving_finds_a_refused_text_in_any_number(
    server: OpenAIServer, embedder: OpenAIEmbedder, count: int
) -> None:
    server.reject = lambda text: text.startswith("guilty")
    outcome = embed(embedder, numbered(count, guilty=(count - 1,)), Event())
    assert rejected(outcome) == {count - 1: "rejected"}
    assert completed(outcome) == list(range(count - 1))
    assert len(server.requests) - 1 <= 2 * ceil(log2(count))


def test_several_refused_texts_are_all_found(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.reject = lambda text: text.startswith("guilty")
    outcome = embed(embedder, numbered(64, guilty=(3, 4, 60)), Event())
    assert rejected(outcome) == dict.fromkeys((3, 4, 60), "rejected")
    assert len(completed(outcome)) == 61


def test_a_text_that_is_too_long_fails_alone_and_in_the_words_of_the_provider(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    outcome = embed(embedder, jobs_for("short", "long " * 10_000, "brief"), Event())
    assert completed(outcome) == [0, 2]
    [(job, refusal)] = outcome.rejected
    assert (job.id, refusal.error_class) == (1, "too_long")
    assert "maximum context length is 8192 tokens" in refusal.cause


# Vectors that nobody can use


@pytest.mark.parametrize("fault", [not_a_number, zeros])
def test_a_vector_that_is_no_vector_fails_only_its_job(
    server: OpenAIServer, embedder: OpenAIEmbedder, fault: Fault
) -> None:
    server.faults += [in_item(1, fault), in_item(0, fault)]
    outcome = embed(embedder, numbered(3), Event())
    assert completed(outcome) == [0, 2]
    assert rejected(outcome) == {1: "bad_vector"}
    assert (outcome.unfinished, outcome.error) == ([], None)
    assert [len(request.texts) for request in server.requests] == [3, 1]


def test_a_vector_that_is_no_vector_once_is_asked_for_again(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(zeros)
    outcome = embed(embedder, numbered(3), Event())
    assert completed(outcome) == [0, 1, 2]
    assert outcome.rejected == []


def test_an_infinite_number_fails_only_its_job(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    items = [{"index": 0, "embedding": [1e39] * WIDTH}, {"index": 1, "embedding": [1.0] * WIDTH}]
    server.faults += [answers(200, {"data": items}), answers(200, {"data": items[:1]})]
    outcome = embed(embedder, numbered(2), Event())
    assert rejected(outcome) == {0: "bad_vector"}
    assert [completion.job.id for completion in outcome.completions] == [1]


# Width


def test_a_width_that_is_known_to_be_wrong_is_found_before_it_is_paid_for(
    server: OpenAIServer,
) -> None:
    embedder = embedder_for(server, "text-embedding-ada-002", 512)
    jobs = jobs_for("one", "two", dimensions=512)
    outcome = embed(embedder, jobs, Event())
    assert isinstance(outcome.error, ProviderRefused)
    assert outcome.error.cause == (
        "openai:text-embedding-ada-002 gives 1536 dimensions, but embedding of docs holds 512"
    )
    assert "--model" in str(outcome.error.hint)
    assert (ids(outcome.unfinished), outcome.completions) == ([0, 1], [])
    assert server.requests == []


def test_a_width_that_only_the_answer_tells_is_found_before_anything_is_written(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults += [wrong_width] * 2
    outcome = embed(embedder, numbered(3), Event())
    assert isinstance(outcome.error, ProviderRefused)
    assert "gives 7 dimensions, but embedding of docs holds 8" in outcome.error.cause
    assert (ids(outcome.unfinished), outcome.completions) == ([0, 1, 2], [])
    assert [len(request.texts) for request in server.requests] == [3, 1], "a letter confirms it"


def test_a_column_without_a_width_takes_any(server: OpenAIServer, embedder: OpenAIEmbedder) -> None:
    outcome = embed(embedder, jobs_for("one", dimensions=None), Event())
    assert completed(outcome) == [0]


# Trouble


@pytest.mark.parametrize("fault", [unavailable, rate_limited(), out_of_quota])
def test_trouble_in_the_middle_keeps_what_is_done_and_hands_back_the_rest(
    server: OpenAIServer, embedder: OpenAIEmbedder, fault: Fault
) -> None:
    embedder.request_limits = replace(embedder.request_limits, items=10)
    server.faults += [no_fault] + [fault] * 10
    outcome = embed(embedder, numbered(35), Event())
    assert completed(outcome) == list(range(9))
    assert ids(outcome.unfinished) == list(range(9, 35))
    assert outcome.rejected == []
    expected = ProviderRefused if fault is out_of_quota else Transient
    assert isinstance(outcome.error, expected)
    assert len(server.requests) <= 2 + PROBES


def test_trouble_while_halving_loses_no_job(server: OpenAIServer, embedder: OpenAIEmbedder) -> None:
    server.reject = lambda text: text.startswith("guilty")
    server.faults += [no_fault] * 4 + [unavailable] * 10
    outcome = embed(embedder, numbered(16, guilty=(3,)), Event())
    assert isinstance(outcome.error, Transient)
    done = completed(outcome) + list(rejected(outcome)) + ids(outcome.unfinished)
    assert sorted(done) == list(range(16))
    assert 3 not in completed(outcome)


def test_a_text_that_makes_the_provider_fail_is_found_among_its_neighbours(
    server: OpenAIServer, embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.05)
    server.stumble = lambda text: text.startswith("guilty")
    outcome = embed(embedder, numbered(100, guilty=(3, 77)), Event())
    assert [job.id for job, _ in outcome.failed] == [3, 77]
    assert completed(outcome) == [number for number in range(100) if number not in (3, 77)]
    assert outcome.error is None


def test_a_provider_that_fails_over_everything_is_asked_no_more_than_it_takes_to_find_one(
    server: OpenAIServer, embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    server.stumble = lambda text: True
    outcome = embed(embedder, numbered(100), Event())
    assert isinstance(outcome.error, Transient)
    assert sorted(ids(outcome.unfinished)) == list(range(100))
    assert outcome.failed == []
    assert len(server.requests) <= 10  # and not 199


def test_a_text_alone_that_makes_the_provider_fail_is_not_blamed(
    server: OpenAIServer, embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    server.stumble = lambda text: True
    outcome = embed(embedder, numbered(1), Event())
    assert (ids(outcome.unfinished), outcome.failed) == ([0], [])


def test_a_text_that_is_too_long_is_embedded_as_far_as_it_fits_if_its_target_says_so(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    long = "word " * 12_000
    jobs = [replace(job, truncate=True) for job in jobs_for("short", long)]
    outcome = embed(embedder, jobs, Event())
    short, shortened = outcome.completions
    assert short.truncated_to is None
    assert shortened.truncated_to is not None
    assert len(long) / 2 < shortened.truncated_to < len(long)
    assert np.allclose(shortened.vector, vector_for(long[: shortened.truncated_to], WIDTH))


def test_a_text_that_is_too_long_fails_unless_its_target_says_otherwise(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    outcome = embed(embedder, jobs_for("short", "word " * 12_000), Event())
    [(job, refusal)] = outcome.rejected
    assert (job.id, refusal.error_class) == (1, "too_long")
    assert "8192" in refusal.cause
    assert completed(outcome) == [0]


def test_an_outage_that_passes_is_not_noticed(
    server: OpenAIServer, embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RATE_LIMIT_SECONDS", 30.0)
    server.faults += [rate_limited(**{"retry-after-ms": "1"})] * 2
    outcome = embed(embedder, numbered(3), Event())
    assert completed(outcome) == [0, 1, 2]
    assert len(server.requests) == 3


def test_a_run_that_is_to_stop_hands_back_what_an_outage_holds_up(
    server: OpenAIServer, embedder: OpenAIEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RATE_LIMIT_SECONDS", 30.0)
    server.faults.append(rate_limited(**{"retry-after": "20"}))
    stop = Event()

    def stop_when_asked() -> None:
        while not server.requests:
            pass
        stop.set()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(stop_when_asked)
        outcome = embed(embedder, numbered(3), stop)
    assert ids(outcome.unfinished) == [0, 1, 2]
    assert isinstance(outcome.error, Transient)


def test_a_run_that_was_stopped_sends_nothing_more(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    stop = Event()
    stop.set()
    outcome = embed(embedder, numbered(3), stop)
    assert (ids(outcome.unfinished), outcome.error) == ([0, 1, 2], None)
    assert server.requests == []


def test_a_text_over_which_the_answer_is_always_garbled_is_found_among_its_neighbours(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    garbled = [with_items(lambda items: []), no_fault]  # the second for a letter
    server.faults += [too_few_items, no_fault, *garbled * BLAMED_AFTER]
    outcome = embed(embedder, numbered(2), Event())
    [(job, failure)] = outcome.failed
    assert (job.id, failure.error_class) == (0, "bad_answer")
    assert completed(outcome) == [1]
