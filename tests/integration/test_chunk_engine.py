"""Documents in chunks: the engine between a real database and the stand-in for a model."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import pytest

from tests import conftest
from tests.acceptance.conftest import Held, statuses
from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.documents import (
    chunks,
    document,
    is_consistent,
    paragraph,
    passages,
    sent,
    write,
)
from tests.integration.jobs import expire_leases
from tests.integration.runs import LONG, SCOPE, Runs, at_once, under_way
from tests.integration.test_service import are_done, serving
from tests.openai_server import Answer, OpenAIServer, unavailable, without_usage
from worker.chunking.documents import split_document
from worker.embedders.base import Embedder
from worker.engine import breaker, documents
from worker.engine.documents import SplitText
from worker.engine.in_flight import Ended, InFlight
from worker.engine.providers import ProviderLimits
from worker.engine.throttling import FULL, ThrottleDecision
from worker.errors import SettingsError

ALWAYS = 1_000_000  # faults
eventually = partial(conftest.eventually, within=LONG)
FAILURE = "select error_class, error_message from embedding_queue where status = 'failed'"


def create_docs_in_chunks(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, title text, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8, chunks => true,"
        " chunk_size => 100)"
    )


FIRST_TABLES = {"docs": create_docs_in_chunks}


@pytest.fixture
def docs(db: Database) -> Database:
    """A table `docs` that is watched in chunks of 100 characters."""
    return db


def after(openai: OpenAIServer, requests: int, call: Callable[[], object]) -> None:
    """Call something when the model was asked so many times and has to answer the last."""

    def fault(due: Answer) -> Answer:
        call()
        return due

    openai.faults.extend([lambda due: due] * (requests - 1) + [fault])


# -- what is embedded


def test_every_passage_gets_the_vector_of_its_own_text(docs: Database, runs: Runs) -> None:
    for key in range(1, 41):
        write(docs, key, document(key % 9 + 1, about=f"number {key}"))
    stats = runs.drain(batch_size=10)
    assert (stats.completed, stats.failed, stats.released) == (40, 0, 0)
    assert statuses(docs) == {"completed": 40}
    assert passages(docs) == sum(key % 9 + 1 for key in range(1, 41))
    assert is_consistent(docs)


@pytest.mark.contract
def test_any_text_arrives_as_it_is(docs: Database, runs: Runs) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', context => 'title')")
    odd = 'a "word", \\ {NULL}, \\", null\r\n\ttab é 👩‍👩‍👧 \u2028'
    docs.execute("insert into docs values (1, %s, %s)", [odd, f"# {odd}\n\n{odd}"])
    docs.execute("insert into docs values (2, null, 'NULL'), (3, '', '{}'), (4, null, '\"')")
    assert runs.drain().completed == 4
    assert rows(docs, "select content from docs_passages order by id")[1:] == [
        ("NULL",),
        ("{}",),
        ('"',),
    ]
    assert is_consistent(docs)


ODD = {
    "no punctuation": "".join(map(chr, range(0x4E00, 0x5200))),
    "base64": b64encode(bytes(range(256)) * 4).decode(),
    "one letter": "a" * 3000,
    "white space around a letter": "\n" * 500 + "x" + " \r\n" * 300,
    "control characters": "".join(map(chr, range(1, 32))) * 20 + "\x7f\x85",
    "separators": "one\x1ftwo\x1e" * 60,
    "not characters": "\ufeff\ufffe\uffff\U0010ffff\u202e\u200b\u2028 " * 60,
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea" * 100,
    "accents": "\u0301" * 500 + "e\u0301 " * 100,
    "line ends": "one\r\ntwo\rthree\n\r\n" * 60,
    "open fence": "```\n" + "code\n" * 200,
    "quotes": "\\\"'{},NULL" * 100,
}


@pytest.mark.contract
@pytest.mark.parametrize("text", rest_in_full(ODD.values(), first=5), ids=ODD)
def test_the_passages_of_an_odd_text_are_all_of_it_but_white_space(
    docs: Database, runs: Runs, text: str
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', context => 'title')")
    docs.execute("insert into docs values (1, %s, %s)", [text, text])
    assert runs.drain().completed == 1
    reached = 0
    for first, last, content in rows(
        docs, "select first_char, last_char, content from docs_passages order by position"
    ):
        assert not text[reached:first].strip()
        assert content == text[first:last]
        assert len(content) <= 100
        reached = last
    assert not text[reached:].strip()


def test_a_text_given_by_hand_may_have_the_separator_of_a_context(
    docs: Database, runs: Runs
) -> None:
    write(docs, 1, "a text")
    write(docs, 2, "one\x1fof the row")
    docs.execute(
        "update embedding_queue set content = e'one\\x1fgiven by hand' where record_id = '1'"
    )
    assert runs.drain().completed == 2
    assert rows(docs, "select context, content from docs_passages order by id") == [
        (None, "one\x1fgiven by hand"),
        (None, "one\x1fof the row"),
    ]
    docs.execute(
        "update embedding_queue set status = 'pending', content = e'one\\x1fand again'"
        " where record_id = '1'"
    )
    assert runs.drain().completed == 1
    assert rows(docs, "select context, content from docs_passages where id = 1") == [
        (None, "one\x1fand again")
    ]


def test_tokens_and_cost_are_those_of_all_chunks(docs: Database, runs: Runs) -> None:
    write(docs, 1, document(30))
    write(docs, 2, document(5, about="the house"))
    stats = runs.drain()
    assert rows(docs, "select sum(tokens), sum(cost)::real from embedding_queue") == [
        (stats.tokens, pytest.approx(stats.cost))
    ]


@pytest.mark.over_a_connection
def test_tokens_that_nobody_counts_are_not_known(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    openai.faults.extend([without_usage] * 2)
    write(docs, 1, document(25))
    assert runs.drain().completed == 1
    assert rows(docs, "select tokens, cost from embedding_queue") == [(None, None)]


@pytest.mark.over_a_connection
def test_a_model_gets_title_and_headings_before_each_chunk(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', context => 'title')")
    body = f"# First\n\n## Second\n\n{paragraph(1)[:60]}\n\n{paragraph(2)}"
    docs.execute("insert into docs values (1, 'A book', %s)", [body])
    runs.drain()
    assert [text.split("\n\n")[0] for text in sent(openai)] == [
        "A book\nFirst",  # where it begins
        "A book\nFirst > Second",
    ]
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_an_edit_embeds_what_is_new(docs: Database, runs: Runs, openai: OpenAIServer) -> None:
    write(docs, 1, document(50))
    runs.drain()
    openai.requests.clear()
    write(docs, 1, document(50).replace(paragraph(20), paragraph(20, about="the cellar")))
    stats = runs.drain()
    assert len(sent(openai)) <= 3
    assert (stats.completed, passages(docs)) == (1, 50)
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_equal_chunks_of_a_document_are_sent_once(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    write(docs, 1, f"{paragraph(1)}\n\n" * 200)
    runs.drain()
    assert len(sent(openai)) == 1
    assert (passages(docs), chunks(docs)) == (200, 1)


@pytest.mark.over_a_connection
def test_equal_chunks_of_two_documents_are_sent_once(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    for key in (1, 2):
        write(docs, key, document(40))
    stats = runs.drain()
    assert len(sent(openai)) == len(set(sent(openai))) == 40
    assert (stats.completed, chunks(docs)) == (2, 80)
    [(cost,)] = rows(docs, "select sum(cost)::real from embedding_queue")
    assert cost == pytest.approx(stats.cost)
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_chunk_that_is_cached_is_not_paid_for(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    write(docs, 1, document(30))
    runs.drain(cache_mb=10)
    write(docs, 2, document(31))
    stats = runs.drain(cache_mb=10)
    assert stats.cached >= 29
    assert len(sent(openai)) == len(set(sent(openai)))
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_document_whose_chunks_are_stored_needs_no_model(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    write(docs, 1, document(5))
    runs.drain()
    docs.execute("update embedding_queue set status = 'pending', content_hash = null")

    def refuse(*_: object) -> Embedder:
        raise AssertionError("nobody needs a model")

    runs.open_embedder = refuse
    assert runs.drain().completed == 1
    assert rows(docs, "select tokens, cost::real from embedding_queue") == [(0, 0.0)]
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_chunks_are_measured_in_tokens_of_the_model(docs: Database, runs: Runs) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', chunk_unit => 'tokens')")
    write(docs, 1, document(50))
    assert runs.drain().completed == 1
    longest = value(docs, "select max(length(content)) from docs_passages")
    assert 100 < longest <= 3 * 100  # an estimate: this model has no vocabulary here
    assert is_consistent(docs)


# -- what is refused


@pytest.mark.over_a_connection
def test_a_refused_chunk_fails_its_document_and_the_others_are_kept(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    openai.reject = lambda text: "poison" in text
    body = document(8).replace(paragraph(5), paragraph(5, about="poison"))
    write(docs, 1, body)
    write(docs, 2, document(3))
    stats = runs.drain(batch_size=100)
    assert (stats.completed, stats.failed) == (1, 1)
    [(error_class, message)] = rows(docs, FAILURE)
    first = body.index(paragraph(5, about="poison"))
    assert error_class == "rejected"
    assert message.startswith(f"characters {first} to ")
    assert "400" in message
    openai.requests.clear()
    write(docs, 1, document(8))
    assert runs.drain().completed == 1
    assert len(sent(openai)) == 1
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_chunk_that_its_table_refuses_fails_its_document_and_the_worker_goes_on(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    docs.execute("alter table docs_chunks add check (content not like '%poison%')")
    write(docs, 1, document(8).replace(paragraph(8), paragraph(8, about="poison")))
    write(docs, 2, document(3, about="the house"))
    stats = runs.drain(batch_size=100)
    assert (stats.completed, stats.failed) == (1, 1)
    [(error_class, message)] = rows(docs, FAILURE)
    assert error_class == "unwritable"
    assert "docs_chunks_content_check" in message
    openai.requests.clear()
    write(docs, 1, document(8))
    assert runs.drain().completed == 1
    assert len(sent(openai)) == 1
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_chunk_that_breaks_the_provider_fails_its_document_once(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, tries_for=0)
    openai.stumble = lambda text: "poison" in text
    write(docs, 1, document(8).replace(paragraph(5), paragraph(5, about="poison")))
    write(docs, 2, document(8, about="the house"))
    stats = runs.drain()
    assert (stats.completed, stats.failed) == (1, 1)
    failed = "select attempts, error_class from embedding_queue where record_id = '1'"
    assert rows(docs, failed) == [(5, "provider_error")]
    assert chunks(docs) == 8 + 7


@pytest.mark.over_a_connection
def test_a_model_that_rejects_every_chunk_is_not_asked_for_each(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    openai.reject = lambda text: "garden" in text
    write(docs, 1, document(300))
    write(docs, 2, document(3, about="the house"))
    stats = runs.drain(batch_size=100)
    assert (stats.completed, stats.failed) == (1, 1)
    assert len(openai.requests) <= 60  # 3 requests of 100 chunks, and halves of them
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_document_of_too_many_chunks_fails_before_anything_is_paid(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', max_chunks => 5)")
    write(docs, 1, document(6))
    write(docs, 2, document(5, about="the house"))
    stats = runs.drain()
    assert (stats.completed, stats.failed) == (1, 1)
    [(error_class, message)] = rows(docs, FAILURE)
    assert error_class == "too_many_chunks"
    assert "more than 5 chunks" in message
    assert "max_chunks" in message
    assert len(sent(openai)) == 5


@pytest.mark.over_a_connection
def test_a_chunk_that_is_too_long_is_truncated_if_the_target_says_so(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    docs.execute(
        "select watch_embeddings('docs', 'body', 'embedding', on_too_long => 'truncate',"
        " chunk_size => 100000)"
    )
    write(docs, 1, "word " * 12_000)
    assert runs.drain().completed == 1
    assert passages(docs) == 1


@pytest.mark.over_a_connection
def test_a_document_that_cannot_be_split_fails_alone(docs: Database, runs: Runs) -> None:
    def split(content: str, *options: Any) -> SplitText:
        if "odd" in content:
            raise ZeroDivisionError(content)
        return split_document(content, *options)

    runs.split = split
    write(docs, 1, document(5))
    write(docs, 2, "odd")
    stats = runs.drain()
    assert (stats.completed, stats.failed) == (1, 1)
    assert rows(docs, FAILURE) == [("not_split", "the text cannot be split: ZeroDivisionError")]


# -- what changes meanwhile


@pytest.mark.over_a_connection
def test_an_edit_while_chunks_are_in_flight_ends_with_the_new_text(
    docs: Database, runs: Runs, held: Held
) -> None:
    write(docs, 1, document(35))
    with under_way(runs.new(batch_size=10), held) as ending:
        write(docs, 1, document(35, first=20))
    stats = ending.result(LONG)
    assert (stats.completed, stats.stale) == (1, 1)
    assert passages(docs) == 35
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_document_that_is_deleted_half_way_leaves_nothing(
    docs: Database, runs: Runs, openai: OpenAIServer, connect: Callable[[], Database]
) -> None:
    other = connect()
    after(openai, 3, lambda: other.execute("delete from docs where id = 1"))
    write(docs, 1, document(60))
    write(docs, 2, document(60, about="the house"))
    assert runs.drain(batch_size=10).completed == 1
    assert statuses(docs) == {"completed": 1}
    assert (passages(docs), chunks(docs)) == (60, 60)
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_another_model_half_way_begins_again(
    docs: Database, runs: Runs, openai: OpenAIServer, connect: Callable[[], Database]
) -> None:
    other = connect()
    model = "openai:text-embedding-3-large"
    watch = "select watch_embeddings('docs', 'body', 'embedding', model => %s)"
    after(openai, 3, lambda: other.execute(watch, [model]))
    write(docs, 1, document(60))
    assert runs.drain(batch_size=10).completed == 1
    assert rows(docs, "select status, model from embedding_queue") == [("completed", model)]
    asked = [r for r in openai.requests if r.body["model"] == "text-embedding-3-large"]
    assert sum(len(request.texts) for request in asked) == 60
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_chunks_that_are_cleared_meanwhile_are_embedded_again(
    docs: Database, runs: Runs, openai: OpenAIServer, connect: Callable[[], Database]
) -> None:
    other = connect()

    def clear() -> None:
        eventually(lambda: chunks(other))  # those of the other request
        other.execute("delete from docs_chunks")

    after(openai, 2, clear)
    write(docs, 1, document(15))
    stats = runs.new(batch_size=10).drain()
    assert (stats.completed, stats.released) == (1, 1)
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_row_that_is_locked_meanwhile_is_embedded_later(
    docs: Database, runs: Runs, openai: OpenAIServer, connect: Callable[[], Database]
) -> None:
    other = connect()

    def lock() -> None:
        other.execute("begin")
        other.execute("select from docs for update")

    after(openai, 1, lock)
    write(docs, 1, document(5))
    stats = runs.drain()
    assert (stats.completed, stats.released) == (0, 1)
    assert rows(docs, "select status, error_class from embedding_queue") == [("pending", "locked")]
    other.execute("rollback")
    docs.execute("update embedding_queue set available_at = now()")
    assert runs.drain().completed == 1
    assert is_consistent(docs)


# -- what stops


@pytest.mark.over_a_connection
def test_a_stop_half_way_keeps_what_was_paid_for(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    stop = Event()
    after(openai, 3, stop.set)
    openai.latency = 0.05
    write(docs, 1, document(300))
    stats = runs.drain(batch_size=5, stop=stop)
    assert (stats.completed, stats.released) == (0, 1)
    assert statuses(docs) == {"pending": 1}
    assert len(sent(openai)) == chunks(docs) < 300
    assert runs.drain(batch_size=100).completed == 1
    assert len(sent(openai)) == 300
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_pause_half_way_keeps_what_was_paid_for(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    paused = Event()
    after(openai, 3, paused.set)
    openai.latency = 0.05
    write(docs, 1, document(300))
    run = runs.new(
        batch_size=5,
        throttle=lambda: ThrottleDecision("paused", "for lunch") if paused.is_set() else FULL,
    )
    stats = run.drain()
    assert (stats.completed, stats.released) == (0, 1)
    assert rows(docs, "select status, error_message from embedding_queue") == [
        ("pending", "for lunch")
    ]
    assert len(sent(openai)) == chunks(docs) < 300
    assert runs.drain(batch_size=100).completed == 1
    assert len(sent(openai)) == 300


@pytest.mark.over_a_connection
def test_with_a_delay_requests_go_one_at_a_time(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("worker.engine.pipeline.pause", lambda seconds, *_: pauses.append(seconds))
    write(docs, 1, document(25))
    assert runs.drain(batch_size=10, delay=0.01).completed == 1
    assert [len(request.texts) for request in openai.requests] == [10, 10, 5]
    assert pauses[:2] == [0.01, 0.01]


@pytest.mark.over_a_connection
def test_the_limit_counts_documents(docs: Database, runs: Runs) -> None:
    for key in range(1, 11):
        write(docs, key, document(12, about=f"number {key}"))
    assert runs.drain(batch_size=2, limit=3).completed == 3
    assert statuses(docs) == {"completed": 3, "pending": 7}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and pauses are short."""
    at_once(monkeypatch, tries_for=0.1)
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.2)


@pytest.mark.over_a_connection
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
    for key in (1, 2, 3):
        write(docs, key, document(15, about=f"number {key}"))
    with serving(runs) as run:
        eventually(are_done(docs, 3))
        assert run.errors == []
    assert len(refusals) == 4
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_an_outage_half_way_is_over_without_a_restart(
    docs: Database, runs: Runs, openai: OpenAIServer, hurried: None
) -> None:
    after(openai, 4, lambda: openai.faults.extend([unavailable] * ALWAYS))
    for key in (1, 2, 3):
        write(docs, key, document(60, about=f"number {key}"))
    with serving(runs) as run:
        eventually(lambda: run.errors and chunks(docs))
        assert chunks(docs) < 180
        openai.faults.clear()
        eventually(are_done(docs, 3))
        eventually(lambda: not run.errors)
    assert value(docs, "select max(attempts) from embedding_queue") == 0
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_a_document_that_kills_its_workers_is_alone_when_it_is_tried_again(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    for key in range(1, 6):
        write(docs, key, document(25, about=f"number {key}"))
    docs.execute(
        "update embedding_queue set status = 'processing', lease = gen_random_uuid(),"
        " lease_expires_at = now(), worker = 'gone', abandoned_claims = 4 where record_id = '3'"
    )
    assert runs.drain().completed == 5
    asked = ["number 3" in text for request in openai.requests for text in request.texts]
    assert asked.index(True) + 25 == len(asked) - asked[::-1].index(True)
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_what_is_in_flight_is_bounded_by_characters(
    docs: Database, runs: Runs, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "CHARACTERS_IN_FLIGHT", 1000)
    in_flight: list[int] = []
    wait = InFlight.wait

    def noted(self: InFlight, seconds: float) -> Ended:
        in_flight.append(self.characters)
        return wait(self, seconds)

    monkeypatch.setattr(InFlight, "wait", noted)
    for key in (1, 2):
        write(docs, key, document(100, about=f"number {key}"))
    assert runs.new(batch_size=None).drain().completed == 2
    assert 900 < max(in_flight) < 1100
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_short_documents_do_not_wait_for_a_long_one(
    docs: Database, runs: Runs, openai: OpenAIServer
) -> None:
    openai.latency = 0.02
    write(docs, 1, document(900))
    for key in range(2, 12):
        write(docs, key, document(3, about=f"number {key}"))
    assert runs.new(None, limits=ProviderLimits(concurrency=1)).drain().completed == 11
    order = [
        key for (key,) in rows(docs, "select record_id from embedding_queue order by completed_at")
    ]
    assert order[-1] == "1"
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_answers_are_written_while_another_document_is_split(
    docs: Database, runs: Runs, connect: Callable[[], Database]
) -> None:
    other = connect()

    def split(content: str, *options: Any) -> SplitText:
        if "the house" in content:
            eventually(lambda: chunks(other) == 1)
        return split_document(content, *options)

    runs.split = split
    write(docs, 1, document(1))
    write(docs, 2, document(5, about="the house"))
    assert runs.drain(batch_size=1).completed == 2
    assert is_consistent(docs)


@pytest.mark.over_a_connection
def test_who_takes_over_goes_on_with_what_is_stored(
    docs: Database, runs: Runs, openai: OpenAIServer, held: Held
) -> None:
    """As if the first had been killed: its lease runs out while it waits for an answer."""
    write(docs, 1, document(40))
    openai.faults.extendleft([lambda due: due] * 2)
    with under_way(runs.new(batch_size=10, limit=1), held) as ending:
        eventually(lambda: chunks(docs) == 30)
        expire_leases(docs)
        assert runs.drain(batch_size=10, scope=replace(SCOPE, worker="another")).completed == 1
    assert ending.result(LONG).stale == 1
    assert len(sent(openai)) == 50
    assert is_consistent(docs)
