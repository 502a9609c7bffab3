"""The client of the Batch API, against a server that speaks it, with its faults."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.batch_server import (
    CANCELLED_HALF_WAY,
    EXPIRED_HALF_WAY,
    INVALID,
    BatchServer,
    Fate,
    bad_gateway,
    broken_every,
    line_error,
    shuffled,
    twice,
    without_every,
)
from tests.hostile_server import HostileServer, Pieces, answered, dripped, endless
from tests.http_server import Answer, answers, cut_short, hang, tokens_in, vector_for
from tests.openai_server import WIDTHS
from worker.embedders import batch_results, openai_batches
from worker.embedders.batch_api import BatchApi, BatchResult, BatchStatus
from worker.embedders.http_client import _loop
from worker.embedders.registry import open_batch_api
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient, WorkerError
from worker.settings import Settings

SMALL = "text-embedding-3-small"
TOKEN = "3f0c8a52-6a7e-4a5e-9d2a-0b7c11f6e9aa"
KEY = "sk-test-Zk3vQ8mW1xT6yB0cR5nHd7Lp"
QUICK = 0.3  # seconds of time-out
WIDTH = 8

Open = Callable[..., BatchApi]


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens the Batch API of a server, until the end of the test."""
    with ExitStack() as stack:

        def opener(root: str, model: str = f"openai:{SMALL}", **more: Any) -> BatchApi:
            prompt = more.pop("document_prompt", None)
            given = {
                "openai_api_key": KEY,
                "openai_base_url": f"{root}/v1",
                "embedding_timeout_seconds": 5.0,
                **more,
            }
            api = open_batch_api(model, WIDTH, Settings(**given), prompt)
            stack.callback(api.close)
            return api

        yield opener


@pytest.fixture
def api(server: BatchServer, opened: Open) -> BatchApi:
    return opened(server.root)


def file_of(api: BatchApi, texts: Sequence[str]) -> io.BytesIO:
    return io.BytesIO(b"".join(api.line(str(place), text) for place, text in enumerate(texts)))


def created(api: BatchApi, *texts: str, token: str = TOKEN) -> BatchStatus:
    return api.create(api.upload(file_of(api, texts or ["a text"]), token), token)


def ended(api: BatchApi, *texts: str) -> BatchStatus:
    batch = created(api, *texts)
    status = api.status(batch.id)
    assert status
    assert status.has_ended
    return status


def results(api: BatchApi, file: str | None) -> dict[str, BatchResult]:
    assert file
    return {result.custom_id: result for result in api.results(file)}


def failure(act: Callable[[], object]) -> Any:
    """What `act` raises, after the checks that every error must pass."""
    with pytest.raises(WorkerError) as caught:
        act()
    assert caught.value.cause.isprintable()
    assert len(caught.value.cause) <= 300
    assert not re.search(r"\bsk-", caught.value.cause)
    return caught.value


# Lines


def test_a_line_has_what_a_request_for_the_text_has(server: BatchServer, opened: Open) -> None:
    api = opened(
        server.root,
        document_prompt="passage: ",
        embedding_extra_body={"openai": {"user": "me"}},
    )
    line = api.line("17", "two\nlines")
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "custom_id": "17",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {
            "model": SMALL,
            "input": ["passage: two\nlines"],
            "encoding_format": "base64",
            "dimensions": WIDTH,
            "user": "me",
        },
    }


@pytest.mark.parametrize(
    "text", ["a\u2028b\u2029c\x85d", "é 漢字 😀", "a\udc80b", "\r\n\x1e\x0b\x00"]
)
def test_no_text_ends_its_line_and_each_arrives_as_it_is(api: BatchApi, text: str) -> None:
    line = api.line("1", text)
    assert line.decode().splitlines() == [line.decode().rstrip("\n")]
    assert json.loads(line)["body"]["input"] == [text.replace("\udc80", "?")]


def test_a_batch_costs_half(api: BatchApi, server: BatchServer, opened: Open) -> None:
    assert api.price == 0.01
    assert opened(server.root, "openai:another-model").price is None


def test_an_unknown_model_is_asked_for_its_width(
    server: BatchServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WIDTHS, "mine", 1536)
    api = opened(server.root, "openai:mine")
    assert api.dimensions is None
    api.probe()
    assert api.dimensions == 1536
    assert list(server.paid_in_full.values()) == [1]


@pytest.mark.parametrize("model", ["local:wordllama-256", "ollama:bge-m3", "voyage:voyage-4"])
def test_a_provider_without_a_batch_api_is_an_error_of_settings(model: str) -> None:
    with pytest.raises(SettingsError, match=r"has no Batch API") as caught:
        open_batch_api(model, None, Settings())
    assert "without --batch-api" in str(caught.value.hint)


def test_a_batch_api_needs_what_its_embedder_needs() -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        open_batch_api(f"openai:{SMALL}", None, Settings())
    with pytest.raises(SettingsError, match="there is no embedding model"):
        open_batch_api("nobody:m", None, Settings())


# From texts to vectors


def test_texts_become_the_vectors_that_the_server_computes(
    server: BatchServer, api: BatchApi
) -> None:
    texts = [f"text {place}" for place in range(100)]
    batch = created(api, *texts)
    assert (batch.state, batch.has_ended) == ("validating", False)
    done = api.status(batch.id)
    assert done
    assert (done.state, done.total, done.completed, done.failed) == ("completed", 100, 100, 0)
    assert done.error_file is None
    assert done.tokens == sum(map(tokens_in, texts))
    assert done.expires_at
    assert abs(done.expires_at - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)
    found = results(api, done.output_file)
    assert len(found) == 100
    for place, text in enumerate(texts):
        result = found[str(place)]
        assert result.vector is not None
        assert result.vector.tolist() == vector_for(text, WIDTH).tolist()
        assert (result.tokens, result.error) == (tokens_in(text), None)
    assert set(server.paid.values()) == {1}
    for file in (done.input_file, done.output_file):
        assert file
        api.delete_file(file)
    assert server.left_over() == []


def test_files_and_batches_say_how_long_they_are_kept(server: BatchServer, api: BatchApi) -> None:
    created(api)
    upload, create = (request.body for request in server.requests)
    kept = str(30 * 86_400)
    assert (upload["expires_after[anchor]"], upload["expires_after[seconds]"]) == (
        "created_at",
        kept,
    )
    assert create["output_expires_after"] == {"anchor": "created_at", "seconds": int(kept)}
    assert create["metadata"] == {"embedding_worker": TOKEN}


def test_a_file_is_uploaded_in_pieces(server: BatchServer, api: BatchApi) -> None:
    asked: list[int | None] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    content = api.line("1", "x" * 5_000_000)
    file = api.upload(Watched(content), TOKEN)
    assert server.files[file].path.read_bytes() == content
    assert len(asked) > 10
    assert all(size and 0 < size <= 2**20 for size in asked)


def test_results_are_read_in_pieces(server: BatchServer, api: BatchApi) -> None:
    done = ended(api, *(f"text {place}" for place in range(10)))
    reading = api.results(done.output_file or "")
    assert next(reading).custom_id == "0"
    reading.close()
    assert list(reading) == []
    assert len(results(api, done.output_file)) == 10


def test_results_that_nobody_reads_on_block_no_request(server: BatchServer, api: BatchApi) -> None:
    done = ended(api, *(f"text {place}" for place in range(10)))
    reading = api.results(done.output_file or "")
    next(reading)
    cleared = Event()

    async def clear_away() -> None:  # as the garbage collector does, in whatever thread it runs
        reading.close()
        cleared.set()

    asyncio.run_coroutine_threadsafe(clear_away(), _loop())
    assert cleared.wait(timeout=10)
    assert api.status(done.id) == done


# What becomes of lines


def test_the_order_and_the_number_of_lines_do_not_matter(
    server: BatchServer, api: BatchApi
) -> None:
    server.results_are(shuffled, twice, without_every(7))
    done = ended(api, *(f"text {place}" for place in range(50)))
    reading = api.results(done.output_file or "")
    found = list(reading)
    assert len(found) == 100 - 15
    assert reading.skipped == 0
    for result in found:
        assert result.vector is not None
        assert result.vector.tolist() == vector_for(f"text {result.custom_id}", WIDTH).tolist()


def test_a_broken_line_is_skipped_and_counted(server: BatchServer, api: BatchApi) -> None:
    server.results_are(broken_every(10))
    done = ended(api, *(f"text {place}" for place in range(30)))
    reading = api.results(done.output_file or "")
    found = {result.custom_id for result in reading}
    # What is left of a broken line takes the next one with it.
    broken = {str(place) for start in (0, 10, 20) for place in (start, start + 1)}
    assert found == {str(place) for place in range(30)} - broken
    assert reading.skipped == 3


@pytest.mark.parametrize(
    ("answer", "kind", "error_class"),
    [
        (line_error(400, "Invalid text."), Rejected, "rejected"),
        (
            line_error(400, "This model's maximum context length is 8192 tokens, however you"
                       " requested 9000 tokens (9000 in your prompt; 0 for the completion)."),
            Rejected,
            "too_long",
        ),
        (line_error(429, "Rate limit reached", "rate_limit_exceeded"), Transient, "rate_limited"),
        (line_error(429, "No money", "insufficient_quota"), ProviderRefused, "out_of_credit"),
        (line_error(500, "Sorry"), Transient, "provider_error"),
        (line_error(503, "Busy"), Transient, "overloaded"),
        (line_error(401, f"Incorrect API key provided: {KEY}"), ProviderRefused, "unauthorized"),
        (line_error(404, "No such model", "model_not_found"), ProviderRefused, "not_found"),
        (Answer(502, b'"<html>Bad Gateway</html>"'), Transient, "provider_error"),
        (Answer(500, b"null"), Transient, "provider_error"),
        (Answer(200, b'{"data": []}'), Transient, "bad_answer"),
        (Answer(200, b"null"), Transient, "bad_answer"),
        (Answer(200, b'{"error": {"message": "upstream"}}'), Transient, "bad_answer"),
        (
            Answer(200, b'{"data": [{"index": 0, "embedding": "not base64!"}]}'),
            Transient,
            "bad_answer",
        ),
    ],
)  # fmt: skip
def test_the_error_of_a_line_is_that_of_an_answer(
    server: BatchServer, api: BatchApi, answer: Answer, kind: type, error_class: str
) -> None:
    server.line_answer = lambda text: answer if text == "bad" else None
    done = ended(api, "good", "bad")
    lines = results(api, done.output_file)
    if done.error_file:
        lines |= results(api, done.error_file)
    assert lines["0"].vector is not None
    assert (lines["1"].vector, lines["1"].tokens) == (None, None)
    error = lines["1"].error
    assert isinstance(error, kind)
    assert failure(lambda: raise_(error)).error_class == error_class


def raise_(error: Exception | None) -> None:
    assert error
    raise error


def test_how_much_of_a_long_text_fits_is_told(server: BatchServer, api: BatchApi) -> None:
    done = ended(api, "x" * 4 * 16_384)
    [result] = results(api, done.error_file).values()
    assert isinstance(result.error, Rejected)
    assert (result.error.error_class, result.error.share) == ("too_long", 0.5)
    assert done.output_file is None


@pytest.mark.parametrize(
    ("fate", "error_class"),
    [(EXPIRED_HALF_WAY, "timed_out"), (CANCELLED_HALF_WAY, "overloaded")],
)
def test_what_a_batch_did_not_get_to_is_told(
    server: BatchServer, api: BatchApi, fate: Fate, error_class: str
) -> None:
    server.fates.append(fate)
    done = ended(api, "a", "b", "c", "d")
    assert done.state == fate.state
    assert results(api, done.output_file).keys() == {"0", "1"}
    rest = results(api, done.error_file)
    assert rest.keys() == {"2", "3"}
    for result in rest.values():
        assert isinstance(result.error, Transient)
        assert result.error.error_class == error_class
    assert server.paid == {"a": 1, "b": 1}


HOSTILE_LINES = [
    b"",
    b"\r",
    b"nonsense",
    b"\xff\xfe",
    b"null",
    b"17",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"custom_id": 17}',
    b'{"custom_id": ""}',
    b'{"custom_id": "' + b"9" * 65 + b'"}',
    b'{"custom_id": "1"}',
    b'{"custom_id": "1", "response": null, "error": null}',
    b'{"custom_id": "1", "response": {"status_code": "200", "body": {}}}',
    b'{"custom_id": "1", "response": {"status_code": true, "body": {}}}',
    b'{"custom_id": "1", "response": {"status_code": 200}}',
    *(
        b'{"custom_id": "1", "response": {"status_code": 200, "body": {"data": %b}}}' % data
        for data in (
            b'[{"embedding": [[]]}]',
            b'[{"embedding": "AAA"}]',
            b'[{"embedding": [{}]}]',
            b'[{"embedding": [1e999999]}, {"embedding": [1]}]',
        )
    ),
    b'{"custom_id": "1", "response": {"status_code": 400, "body": {"error": 17}}}',
    b'{"custom_id": "1", "response": {"status_code": 99999999999999999999, "body": ["x"]}}',
    b'{"custom_id": "1", "error": {"code": 17, "message": {"a": "\\ud800\\u0000"}}}',
    b'{"custom_id": "1", "error": {"code": "x", "message": "' + b"y" * 100_000 + b'"}}',
    b'{"custom_id": "1", "error": {"code": "' + b"z" * 100_000 + b'"}}',
    b'{"custom_id": "1", "error": "words"}',
    b'{"custom_id": "1", "error": {}}',
    b'{"custom_id": "1", "x": "' + b"x" * 2**20 + b'"}',
]


@pytest.mark.parametrize("line", HOSTILE_LINES, ids=lambda line: line[:60].decode("latin-1"))
def test_no_line_keeps_the_others_from_being_read(
    server: BatchServer, api: BatchApi, line: bytes
) -> None:
    server.results_are(lambda lines: [line + b"\n", *lines, line])
    done = ended(api, "a text")
    reading = api.results(done.output_file or "")
    found = list(reading)
    assert [result.custom_id for result in found if result.vector is not None] == ["0"]
    assert len(found) + reading.skipped == (3 if line.strip() else 1)
    for result in found:
        if result.error:
            failure(partial(raise_, result.error))


# Files that cannot be read


def test_results_that_break_off_are_transient(server: BatchServer, api: BatchApi) -> None:
    done = ended(api, *(f"text {place}" for place in range(1000)))
    server.faults_at["GET /files/content"].append(cut_short)
    reading = api.results(done.output_file or "")
    error = failure(lambda: list(reading))
    assert isinstance(error, Transient)
    assert error.error_class == "unreachable"
    assert len(results(api, done.output_file)) == 1000


def test_a_gateway_that_fails_now_and_then_is_transient(server: BatchServer, api: BatchApi) -> None:
    done = ended(api)
    server.faults_at["GET /files/content"].append(bad_gateway)
    error = failure(lambda: next(api.results(done.output_file or "")))
    assert (type(error), error.error_class) == (Transient, "provider_error")
    assert len(results(api, done.output_file)) == 1


def test_a_file_that_is_gone_is_refused_with_a_hint(server: BatchServer, api: BatchApi) -> None:
    error = failure(lambda: next(api.results("file-unknown")))
    assert (type(error), error.error_class) == (ProviderRefused, "not_found")
    assert error.hint == "The results are gone, or they belong to another key or address."


STALLED = {
    "headers": dripped(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "the body": dripped(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"),
    "chunks": endless(b"\n"),
    "nothing, packed": endless(b"\x00\x00\x00\xff\xff", content_encoding="deflate"),
}


@pytest.mark.parametrize("pieces", STALLED.values(), ids=STALLED.keys())
def test_a_download_that_comes_in_drops_is_given_up(opened: Open, pieces: Pieces) -> None:
    with HostileServer(pieces, drips=True) as server:
        api = opened(server.root, embedding_timeout_seconds=QUICK)
        error = failure(lambda: list(api.results("file-1")))
    assert (type(error), error.error_class) == (Transient, "timed_out")


def test_a_download_that_stops_is_given_up(server: BatchServer, opened: Open) -> None:
    api = opened(server.root, embedding_timeout_seconds=QUICK)
    done = ended(api)
    server.faults_at["GET /files/content"].append(hang)
    error = failure(lambda: list(api.results(done.output_file or "")))
    assert (type(error), error.error_class) == (Transient, "timed_out")


def test_a_download_without_end_is_given_up(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_results, "MOST_BYTES_OF_A_FILE", 20 * 2**20)
    with HostileServer(endless(b"x" * 2**20)) as server:
        reading = opened(server.root).results("file-1")
        error = failure(lambda: list(reading))
    assert (type(error), error.error_class) == (Transient, "bad_answer")


def test_what_is_kept_of_a_line_without_end_is_bounded() -> None:
    seen: list[int] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 2**20
        yield b"\nshort\n"

    for line in batch_results.split_lines(pieces()):
        seen.append(len(line))
    assert len(seen) == 2
    assert batch_results.MOST_BYTES_OF_A_LINE < seen[0] <= 3 * 2**20
    assert seen[1] == len(b"short")


def test_lines_do_not_depend_on_where_pieces_end() -> None:
    content = b"one\ntwo\n\nthree"
    for size in range(1, len(content) + 1):
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        assert list(batch_results.split_lines(pieces)) == [b"one", b"two", b"", b"three"]


def test_an_answer_that_is_packed_twice_is_not_read(opened: Open) -> None:
    with HostileServer(answered(b"x", content_encoding="gzip, gzip")) as server:
        error = failure(lambda: list(opened(server.root).results("file-1")))
    assert isinstance(error, Transient)


def test_files_are_sent_to_and_read_from_no_other_address(
    server: BatchServer, api: BatchApi
) -> None:
    elsewhere = answers(307, b"", location="http://127.0.0.1:9/x?secret=1")
    for route, act in {
        "POST /files": lambda: created(api),
        "GET /files/content": lambda: list(api.results("file-1")),
    }.items():
        server.refusals[route].append(elsewhere)
        error = failure(act)
        assert (type(error), error.error_class) == (ProviderRefused, "refused")
        assert "it redirects to http://127.0.0.1:9/x" in error.cause
        assert "secret" not in error.cause


# Batches


def test_a_batch_and_its_file_are_found_by_their_token(server: BatchServer, api: BatchApi) -> None:
    assert api.find(TOKEN) is None
    assert api.find_files(TOKEN) == []
    others = [created(api, token=f"other-{number}") for number in range(3)]
    mine = created(api)
    assert api.find(TOKEN) == mine
    assert api.find_files(TOKEN) == [mine.input_file]
    again = api.upload(file_of(api, ["a text"]), TOKEN)
    assert set(api.find_files(TOKEN)) == {mine.input_file, again}
    assert api.find("other-1") == others[1]


def test_a_batch_is_found_on_any_page(server: BatchServer, api: BatchApi) -> None:
    file = api.upload(file_of(api, ["a text"]), TOKEN)
    batches = [api.create(file, f"token {number}") for number in range(250)]
    assert api.find("token 0") == batches[0]
    assert api.find("token 249") == batches[249]
    assert api.find("token 250") is None


def test_old_batches_are_not_read(server: BatchServer, api: BatchApi) -> None:
    file = api.upload(file_of(api, ["a text"]), TOKEN)
    for number in range(250):
        batch = api.create(file, f"token {number}")
        server.batches[batch.id].created -= (250 - number) * 3600
    server.requests.clear()
    assert api.find("token 250", since=datetime.now(UTC)) is None
    assert len(server.requests) == 2  # 100 hours of batches a page
    assert api.find("token 180", since=datetime.now(UTC) - timedelta(hours=70))


def test_a_list_without_end_is_given_up(
    server: BatchServer, api: BatchApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_batches, "MOST_PAGES", 20)

    def never_ends(due: Answer) -> Answer:
        server.refusals["GET /batches"].append(never_ends)
        return Answer(200, json.dumps({"data": [{"id": "batch_1"}], "has_more": True}).encode())

    server.refusals["GET /batches"].append(never_ends)
    error = failure(lambda: api.find(TOKEN))
    assert (type(error), error.error_class) == (Transient, "bad_answer")


def test_a_batch_whose_creation_was_not_answered_is_found(
    server: BatchServer, opened: Open
) -> None:
    api = opened(server.root, embedding_timeout_seconds=QUICK)
    for fault in (hang, cut_short, bad_gateway):
        server.faults_at["POST /batches"].append(fault)
        assert isinstance(failure(partial(created, api, token=str(fault))), Transient)
        assert api.find(str(fault))


def test_a_batch_can_be_listed_late(server: BatchServer, api: BatchApi) -> None:
    server.lists_late = 2
    batch = created(api)
    assert [api.find(TOKEN) for _ in range(3)] == [None, None, batch]


def test_an_unknown_batch_is_none_and_a_wrong_address_is_refused(
    server: BatchServer, api: BatchApi, opened: Open
) -> None:
    assert api.status("batch_unknown") is None
    wrong = opened(server.root, openai_base_url=f"{server.root}/v2")
    error = failure(lambda: wrong.status("batch_unknown"))
    assert (type(error), error.error_class) == (ProviderRefused, "not_found")


def test_a_server_without_a_batch_api_is_told_with_a_cure(
    server: BatchServer, opened: Open
) -> None:
    wrong = opened(server.root, openai_base_url=f"{server.root}/v2")
    error = failure(lambda: created(wrong))
    assert (type(error), error.error_class) == (ProviderRefused, "not_found")
    assert "backfill without --batch-api" in error.hint


def test_a_wrong_key_is_refused_by_each_call(server: BatchServer, opened: Open) -> None:
    api = opened(server.root, openai_api_key="sk-wrong-1234567890abcdef")
    for act in (
        lambda: created(api),
        lambda: api.create("file-1", TOKEN),
        lambda: api.find(TOKEN),
        lambda: api.find_files(TOKEN),
        lambda: api.status("batch_1"),
        lambda: api.cancel("batch_1"),
        lambda: api.delete_file("file-1"),
        lambda: next(api.results("file-1")),
    ):
        error = failure(act)
        assert (type(error), error.error_class) == (ProviderRefused, "unauthorized")
        assert error.hint == "Check OPENAI_API_KEY, then start again."


def test_no_text_is_blamed_for_what_is_about_a_batch(server: BatchServer, api: BatchApi) -> None:
    error = failure(lambda: api.create("file-unknown", TOKEN))
    assert (type(error), error.error_class) == (ProviderRefused, "refused")
    assert "there is no such file" in error.cause


def test_a_batch_with_too_many_tokens_tells_how_many_there_may_be(
    server: BatchServer, api: BatchApi
) -> None:
    server.token_limit = 2_000_000_000
    server.is_holding = True
    first = created(api, "a text", token="first")
    status = api.status(first.id)
    assert status
    assert (status.state, status.token_limit) == ("in_progress", None)
    server.token_limit = 3
    second = api.status(created(api, "another text", token="second").id)
    assert second
    assert (second.state, second.error_code) == ("failed", "token_limit_exceeded")
    assert second.token_limit == 3
    assert second.error_message
    assert "Limit: 3 enqueued tokens." in second.error_message
    assert server.paid.total() == 0


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Limit: 5,000,000,000 enqueued tokens.", 5_000_000_000),
        ("Limit: ,,, enqueued tokens.", None),
        ("Limit: 0 enqueued tokens.", None),
        ("Limit: 99999999999999999999 enqueued tokens.", None),
        ("Enough.", None),
    ],
)
def test_the_limit_of_tokens_is_read_from_words(
    server: BatchServer, api: BatchApi, message: str, limit: int | None
) -> None:
    server.fates.append(Fate("failed", code="token_limit_exceeded", message=message))
    assert ended(api).token_limit == limit


def test_why_a_batch_failed_is_one_line_without_secrets(server: BatchServer, api: BatchApi) -> None:
    server.fates.append(INVALID)
    status = ended(api)
    assert (status.state, status.error_code) == ("failed", "invalid_json_line")
    assert status.error_message == INVALID.message
    server.fates.append(Fate("failed", code="x" * 500, message=f"{KEY}\n{'y' * 500}"))
    status = ended(api)
    assert status.error_code == "x" * 100
    assert status.error_message
    assert status.error_message.startswith("[redacted] yyy")
    assert len(status.error_message) == 300


def test_a_batch_that_is_cancelled_stops(server: BatchServer, api: BatchApi) -> None:
    server.is_holding = True
    batch = created(api)
    api.cancel(batch.id)
    api.cancel(batch.id)
    status = api.status(batch.id)
    assert status
    assert status.state == "cancelled"
    assert status.output_file is None
    api.cancel(batch.id)
    api.cancel("batch_unknown")


def test_a_batch_that_cannot_be_cancelled_now_is_told(server: BatchServer, api: BatchApi) -> None:
    server.is_holding = True
    batch = created(api)
    server.refusals["POST /batches/cancel"].append(bad_gateway)
    assert isinstance(failure(lambda: api.cancel(batch.id)), Transient)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        "batch",
        {},
        {"id": "batch_1"},
        {"id": "batch_1", "status": "asleep"},
        {"id": "batch_1", "status": ["completed"]},
        {"id": "", "status": "completed"},
        {"id": "../files", "status": "completed"},
        {"id": "a/b", "status": "completed"},
        {"id": "a" * 600, "status": "completed"},
        {"id": 17, "status": "completed"},
        {"id": "batch_1", "status": "completed", "output_file_id": "../batches"},
        {"id": "batch_1", "status": "completed", "output_file_id": 17},
    ],
)
def test_a_status_that_makes_no_sense_is_transient(
    server: BatchServer, api: BatchApi, fields: object
) -> None:
    server.faults.append(answers(200, fields))
    error = failure(lambda: api.status("batch_1"))
    assert (type(error), error.error_class) == (Transient, "bad_answer")


@pytest.mark.parametrize(
    "fields",
    [
        {"request_counts": None, "errors": None, "expires_at": None, "output_file_id": None},
        {"request_counts": {"total": -1, "completed": None, "failed": "3"}, "output_file_id": ""},
        {"expires_at": 10**30, "errors": {"data": [17, None]}, "usage": [1]},
        {"expires_at": "tomorrow", "errors": {"data": None}, "request_counts": [1]},
        {"expires_at": -(10**30), "errors": "none", "usage": {"total_tokens": -1}},
    ],
)
def test_what_a_status_leaves_out_or_garbles_is_left_out(
    server: BatchServer, api: BatchApi, fields: dict[str, object]
) -> None:
    server.faults.append(answers(200, {"id": "batch_1", "status": "completed", **fields}))
    assert api.status("batch_1") == BatchStatus(
        id="batch_1",
        state="completed",
        total=0,
        completed=0,
        failed=0,
        expires_at=None,
        input_file=None,
        output_file=None,
        error_file=None,
        error_code=None,
        error_message=None,
        token_limit=None,
    )


def test_vectors_as_lists_are_read_as_well(server: BatchServer, api: BatchApi) -> None:
    body = {"data": [{"index": 0, "embedding": [0.5, -0.5]}]}
    server.line_answer = lambda text: Answer(200, json.dumps(body).encode())
    [result] = results(api, ended(api).output_file).values()
    assert result.vector is not None
    assert np.array_equal(result.vector, [0.5, -0.5])
    assert result.tokens is None
