"""Servers that speak OpenAI's dialect and are not OpenAI: TEI, and those that tell nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.http_server import answers, as_json, vector_for
from tests.openai_server import OpenAIServer, as_lists
from tests.tei_server import MODEL, WIDTH, TEIServer
from tests.unit.conftest import Open, failure, refusal
from worker.embedders.base import NO_CAP, Embedder
from worker.errors import ProviderRefused, Rejected, Transient

TEXTS = [str(number) for number in range(200)]


@pytest.fixture
def server() -> Iterator[TEIServer]:
    with TEIServer() as server:
        yield server


@pytest.fixture
def embedder(server: TEIServer, opened: Open) -> Embedder:
    embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
    embedder.probe()
    server.requests.clear()
    return embedder


@pytest.fixture
def stranger(opened: Open) -> Iterator[tuple[TEIServer, Embedder]]:
    """A server that does not say what it takes, and the embedder for it."""
    with TEIServer(has_info=False, max_client_batch_size=100) as server:
        embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
        embedder.probe()
        server.requests.clear()
        yield server, embedder


# What TEI tells of itself


def test_texts_become_vectors_in_base64(server: TEIServer, embedder: Embedder) -> None:
    answer = embedder.embed(["first", "second"], "document")
    assert np.array_equal(answer.vectors, [vector_for("first", WIDTH), vector_for("second", WIDTH)])
    assert answer.tokens == [2, 2]
    assert server.requests[0].body["encoding_format"] == "base64"
    assert embedder.price is None


def test_what_tei_says_of_itself_is_obeyed(opened: Open) -> None:
    with TEIServer(max_client_batch_size=8, max_input_length=256) as server:
        embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
        assert (embedder.dimensions, embedder.request_limits.items) == (None, 32)
        embedder.probe()
        assert [(request.method, request.path) for request in server.requests] == [
            ("GET", "/info"),
            ("POST", "/v1/embeddings"),
        ]
        assert (embedder.dimensions, embedder.request_limits.items) == (WIDTH, 8)
        assert embedder.request_limits.tokens_per_text == 256
        embedder.embed(TEXTS[:8], "document")
        assert embedder.request_limits.items == 8  # which is all it takes: no use in trying more


def test_no_more_texts_are_under_way_than_tei_has_permits(opened: Open) -> None:
    with TEIServer(max_client_batch_size=32, max_concurrent_requests=64) as server:
        embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
        embedder.probe()
        assert (embedder.concurrency.first, embedder.concurrency.most) == (2, 2)
    with TEIServer(max_client_batch_size=32, max_concurrent_requests=10) as server:
        embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
        embedder.probe()
        assert (embedder.request_limits.items, embedder.concurrency.most) == (10, 1)


@pytest.mark.parametrize(
    "info", [b"", b"<html>", as_json([]), as_json({"max_client_batch_size": 0})]
)
def test_what_lies_at_info_of_another_server_is_left_alone(opened: Open, info: bytes) -> None:
    with TEIServer() as server:
        server.faults.append(answers(200, info))
        embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
        embedder.probe()
        assert (embedder.dimensions, embedder.request_limits.items) == (WIDTH, 32)
        assert embedder.request_limits.tokens_per_text == NO_CAP


def test_a_text_that_tei_finds_too_long_is_rejected_with_the_share_it_takes(
    embedder: Embedder,
) -> None:
    error = failure(embedder, "good", "x" * 4 * 1024)
    assert isinstance(error, Rejected)
    assert error.cause.endswith("422: `inputs` must have less than 512 tokens. Given: 1024")
    assert (error.error_class, error.share) == ("too_long", 0.5)


def test_tei_out_of_permits_is_limited(opened: Open) -> None:
    # what becomes of the first when the server closes is not what this is about
    with (
        ThreadPoolExecutor(1) as pool,
        TEIServer(max_concurrent_requests=3, has_info=False) as server,
    ):
        embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
        server.latency = 60
        pool.submit(embedder.embed, ["one", "two"], "document")
        while not server.requests:
            threading.Event().wait(0.005)
        error = failure(embedder, "three", "four")
    assert isinstance(error, Transient)
    assert error.cause.endswith("429: Model is overloaded")
    assert error.error_class == "rate_limited"


def test_a_failure_of_the_backend_may_be_for_a_text(server: TEIServer, embedder: Embedder) -> None:
    server.stumble = lambda text: text == "guilty"
    error = failure(embedder, "good", "guilty")
    assert isinstance(error, Transient)
    assert error.cause.endswith("424: CUDA_ERROR_ILLEGAL_ADDRESS")
    assert (error.error_class, error.of_the_input) == ("provider_error", True)


def test_an_empty_text_is_rejected_in_the_words_of_tei(embedder: Embedder) -> None:
    error = failure(embedder, "good", "")
    assert isinstance(error, Rejected)
    assert error.cause.endswith("400: `inputs` cannot be empty")


def test_a_wrong_key_is_refused(opened: Open) -> None:
    with TEIServer(api_key="right-key-0123456789") as server:
        settings = {"openai_base_url": server.base_url, "openai_api_key": "wrong-key-0123456789"}
        error = refusal(opened(f"openai:{MODEL}", **settings))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(" answered 401: no message")
    assert error.hint == "Check OPENAI_API_KEY, then start again."


# What a server is found out to take


def test_with_an_unknown_server_requests_begin_at_32_texts_and_grow(
    stranger: tuple[TEIServer, Embedder],
) -> None:
    _, embedder = stranger
    sizes = []
    for _ in range(3):
        sizes.append(embedder.request_limits.items)
        if sizes[-1] <= 100:
            embedder.embed(TEXTS[: sizes[-1]], "document")
    assert sizes == [32, 64, 128]
    embedder.embed(TEXTS[:10], "document")
    assert embedder.request_limits.items == 128  # what is not full teaches nothing


@pytest.mark.parametrize("with_413", [False, True])
def test_the_batch_size_that_a_server_names_is_remembered(
    stranger: tuple[TEIServer, Embedder], with_413: bool
) -> None:
    server, embedder = stranger
    server.refuses_batches_with_413 = with_413
    error = failure(embedder, *TEXTS[:128])
    assert isinstance(error, Rejected)
    assert error.cause.endswith(": batch size 128 > maximum allowed batch size 100")
    assert error.error_class == "too_large"
    assert embedder.request_limits.items == 32  # it was not meant to send more
    server.max_client_batch_size = 20
    failure(embedder, *TEXTS[:32])
    assert embedder.request_limits.items == 20
    embedder.embed(TEXTS[:20], "document")
    assert embedder.request_limits.items == 20  # and no longer grows


def test_a_batch_size_that_is_not_named_is_half_of_what_was_refused(
    stranger: tuple[TEIServer, Embedder],
) -> None:
    server, embedder = stranger
    server.faults.append(answers(422, {"message": "the batch size is wrong"}))
    failure(embedder, *TEXTS[:32])
    assert embedder.request_limits.items == 16


def test_how_many_bytes_are_too_many_is_remembered(
    stranger: tuple[TEIServer, Embedder],
) -> None:
    _, embedder = stranger
    texts = ["\x01" * 18_000] * 32  # in JSON, six times as long
    error = failure(embedder, *texts)
    assert isinstance(error, Rejected)
    assert error.cause.endswith("413: length limit exceeded")
    assert error.error_class == "too_large"
    assert embedder.request_limits.bytes == 32 * 18_000 // 2
    assert embedder.request_limits.items == 32


def test_one_text_that_is_too_large_is_too_long_and_teaches_nothing(
    stranger: tuple[TEIServer, Embedder],
) -> None:
    _, embedder = stranger
    request_limits = embedder.request_limits
    assert failure(embedder, "x" * 3_000_000).error_class == "too_long"
    assert embedder.request_limits == request_limits


# Base64


@pytest.mark.parametrize(
    "fault",
    [
        answers(400, {"error": {"message": "encoding_format is not supported", "code": None}}),
        answers(422, {"detail": [{"loc": ["body", "encoding_format"]}]}),
        answers(500, {"error": {"message": "cannot serialize"}}),
        answers(200, {"data": [{"index": 0, "embedding": "not base64"}]}),
    ],
)
def test_a_server_that_refuses_base64_is_asked_for_numbers_from_then_on(
    stranger: tuple[TEIServer, Embedder], opened: Open, fault: object
) -> None:
    server, _ = stranger
    embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
    server.faults += [answers(404), fault]  # type: ignore[list-item]
    embedder.probe()
    assert embedder.dimensions == WIDTH
    assert np.array_equal(
        embedder.embed(["a text"], "document").vectors, [vector_for("a text", WIDTH)]
    )
    posted = [request for request in server.requests if request.method == "POST"]
    assert [request.body["encoding_format"] for request in posted] == ["base64", "float", "float"]


def test_a_server_that_refuses_both_is_told_of_in_its_first_words(
    stranger: tuple[TEIServer, Embedder], opened: Open
) -> None:
    server, _ = stranger
    embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
    server.faults += [answers(404), answers(400, {"error": "first"}), answers(400, b"second")]
    error = refusal(embedder)
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith("400: first")
    assert error.of_the_model
    embedder.probe()
    assert server.requests[-1].body["encoding_format"] == "base64"


def test_a_server_that_is_limited_is_not_asked_again_in_another_encoding(
    stranger: tuple[TEIServer, Embedder], opened: Open
) -> None:
    server, _ = stranger
    embedder = opened(f"openai:{MODEL}", openai_base_url=server.base_url)
    server.faults += [answers(404), answers(429)]
    assert refusal(embedder).error_class == "rate_limited"
    assert len(server.requests) == 2


# Names


def test_a_model_of_openai_is_known_wherever_it_is_served(opened: Open) -> None:
    with OpenAIServer() as server:
        settings = {"openai_base_url": server.base_url, "openai_api_key": server.api_key}
        embedder = opened("openai:text-embedding-3-small", 256, **settings)
        embedder.probe()
        assert (embedder.dimensions, embedder.price) == (256, 0.02)
        assert not server.requests


def test_a_model_that_is_only_called_like_one_of_openai_is_not(opened: Open) -> None:
    with OpenAIServer() as server:
        settings = {"openai_base_url": server.base_url, "openai_api_key": server.api_key}
        embedder = opened("openai:text-embedding-nomic-embed-text-v1.5", **settings)
        assert (embedder.dimensions, embedder.price, embedder.request_limits.items) == (
            None,
            None,
            32,
        )


def test_a_known_model_on_an_unknown_server_is_asked_for_its_width(opened: Open) -> None:
    with TEIServer() as server:
        server.faults += [lambda due: due, as_lists]
        embedder = opened("openai:BAAI/bge-m3", openai_base_url=server.base_url)
        assert embedder.dimensions is None
        embedder.probe()
        assert embedder.dimensions == WIDTH
