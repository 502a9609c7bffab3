"""The Ollama embedder against a server that answers as Ollama does, over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.http_server import Fault, answers, cut_short, hang, not_json, vector_for
from tests.ollama_server import CRASHED, OllamaServer
from tests.unit.conftest import Open, failure, refusal
from worker.embedders.base import Embedder
from worker.embedders.prompts import NONE
from worker.errors import ProviderRefused, Rejected, Transient


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def embedder(server: OllamaServer, opened: Open) -> Embedder:
    embedder = opened("ollama:nomic-embed-text", ollama_host=server.root)
    embedder.prompts = NONE  # test_prompts.py is about them
    return embedder


def test_texts_become_vectors_in_their_order_in_one_request(
    server: OllamaServer, embedder: Embedder
) -> None:
    texts = ["first", "second, with an ümlaut and a 😀", "third"]
    answer = embedder.embed(texts, "document")
    assert answer.vectors.dtype == np.float32
    assert np.array_equal(answer.vectors, [vector_for(text, 768) for text in texts])
    assert answer.tokens == [1, 11, 1]  # the 13 of the request, by length
    [request] = server.requests
    assert request.body == {
        "model": "nomic-embed-text",
        "input": texts,
        "truncate": False,
        "keep_alive": "30m",
    }
    assert "authorization" not in request.headers


def test_what_it_says_of_itself(embedder: Embedder) -> None:
    assert (embedder.provider, embedder.model) == ("ollama", "ollama:nomic-embed-text")
    assert embedder.price == 0
    assert (embedder.request_limits.items, embedder.request_limits.bytes) == (32, 1_000_000)
    assert (embedder.concurrency.first, embedder.concurrency.most) == (2, 8)


@pytest.mark.parametrize(
    ("name", "column", "width", "sent"),
    [
        ("qwen3-embedding:0.6b", None, 1024, None),
        ("qwen3-embedding:0.6b", 1024, 1024, None),
        ("qwen3-embedding:0.6b", 256, 256, 256),
        ("qwen3-embedding:0.6b", 4096, 1024, None),
        ("qwen3-embedding:8b", 2000, 2000, 2000),
        ("nomic-embed-text:latest", 256, 768, None),
    ],
)
def test_dimensions_are_sent_only_where_the_model_can_be_shortened_to_the_column(
    server: OllamaServer, opened: Open, name: str, column: int | None, width: int, sent: int | None
) -> None:
    embedder = opened(f"ollama:{name}", column, ollama_host=server.root)
    embedder.prompts = NONE
    embedder.probe()
    assert not server.requests  # it is known by its name
    assert embedder.dimensions == width
    assert np.array_equal(
        embedder.embed(["a text"], "document").vectors, [vector_for("a text", width)]
    )
    assert server.requests[0].body.get("dimensions") == sent


def test_the_width_of_an_unknown_model_is_asked_for_with_one_letter(
    server: OllamaServer, opened: Open
) -> None:
    embedder = opened("ollama:of-your-own", ollama_host=server.root)
    assert embedder.dimensions is None
    embedder.probe()
    embedder.probe()
    assert embedder.dimensions == 64
    assert [request.texts for request in server.requests] == [["a"]]


def test_a_lone_surrogate_is_sent_as_a_question_mark(embedder: Embedder) -> None:
    assert np.array_equal(
        embedder.embed(["a\ud800b"], "document").vectors, [vector_for("a?b", 768)]
    )


def test_a_model_that_is_not_pulled_is_refused_with_the_command_that_pulls_it(
    server: OllamaServer, opened: Open
) -> None:
    error = refusal(opened("ollama:nowhere", ollama_host=server.root))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(' answered 404: model "nowhere" not found, try pulling it first')
    assert error.hint == "Run `ollama pull nowhere` at OLLAMA_HOST, then start again."
    assert (error.error_class, error.of_the_model) == ("not_found", True)


def test_a_server_that_is_not_ollama_is_refused_with_the_setting_to_look_at(
    server: OllamaServer, opened: Open
) -> None:
    error = failure(opened("ollama:nomic-embed-text", ollama_host=server.root + "/elsewhere"))
    assert isinstance(error, ProviderRefused)
    assert error.hint == "Check the name of the model, and OLLAMA_HOST, then start again."


def test_a_server_that_wants_a_password_is_refused_without_repeating_it(
    server: OllamaServer, opened: Open
) -> None:
    host = server.root.replace("//", "//me:hunter2%2F@")
    server.faults.append(answers(401, {"error": "wrong password: hunter2/"}))
    error = failure(opened("ollama:nomic-embed-text", ollama_host=host))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(" answered 401: wrong password: [redacted]")
    assert str(error.hint).startswith("Check OLLAMA_HOST, and any proxy in between")


def test_a_full_queue_is_overload(opened: Open) -> None:
    # what becomes of the first when the server closes is not what this is about
    with ThreadPoolExecutor(1) as pool, OllamaServer(max_queue=1) as server:
        embedder = opened("ollama:nomic-embed-text", ollama_host=server.root)
        server.latency = 60
        pool.submit(embedder.embed, ["a text"], "document")
        while not server.requests:
            threading.Event().wait(0.005)
        error = failure(embedder)
    assert isinstance(error, Transient)
    assert "503: server busy, please try again." in error.cause
    assert error.error_class == "overloaded"


def test_a_text_that_is_too_long_is_refused_and_never_cut(embedder: Embedder) -> None:
    error = failure(embedder, "good", "x" * 8193)
    assert isinstance(error, Rejected)
    assert error.cause.endswith(" 400: the input length exceeds the context length")
    assert error.error_class == "too_long"
    embedder.embed(["x" * 8192], "document")


@pytest.mark.parametrize(
    "words",
    [
        CRASHED,
        "failed to encode response: json: unsupported value: NaN",
        "llama runner process no longer running: 2",
        "dial tcp 127.0.0.1:1: connect: connection refused",
    ],
)
def test_a_runner_that_crashed_may_have_done_so_over_one_of_the_texts(
    server: OllamaServer, embedder: Embedder, words: str
) -> None:
    server.faults.append(answers(400, {"error": words}))
    error = failure(embedder)
    assert isinstance(error, Transient)
    assert (error.error_class, error.of_the_input) == ("provider_error", True)


def test_any_other_refusal_is_for_the_texts(server: OllamaServer, embedder: Embedder) -> None:
    server.faults.append(answers(400, {"error": "this model does not support embeddings"}))
    error = failure(embedder)
    assert isinstance(error, Rejected)
    assert error.error_class == "rejected"


def test_a_refusal_of_one_letter_is_for_the_model(server: OllamaServer, opened: Open) -> None:
    server.faults.append(answers(400, {"error": "this model does not support embeddings"}))
    error = refusal(opened("ollama:of-your-own", ollama_host=server.root))
    assert isinstance(error, ProviderRefused)
    assert (error.error_class, error.of_the_model) == ("refused", True)
    assert "OLLAMA_HOST" in str(error.hint)


def test_one_text_that_a_proxy_finds_too_large_is_too_long(
    server: OllamaServer, embedder: Embedder
) -> None:
    server.faults += [answers(413), answers(413)]
    assert failure(embedder, "one", "another").error_class == "too_large"
    assert failure(embedder, "one").error_class == "too_long"


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (not_json, "not JSON: <html>"),
        (answers(200, []), "no list `embeddings` in []"),
        (answers(200, {"embeddings": None}), "no list `embeddings`"),
        (answers(200, {"embedding": [1.0]}), "no list `embeddings`"),  # of its older API
        (answers(200, {"error": "later"}), "an error with status 200: later"),
        (answers(200, {"embeddings": []}), "0 vectors for 2 texts"),
        (answers(200, {"embeddings": [[1.0]]}), "1 vectors for 2 texts"),
        (answers(200, {"embeddings": [[1.0], [1.0, 2.0]]}), "vectors of different widths"),
        (answers(200, {"embeddings": [[], []]}), "vectors of different widths, or of none"),
        (answers(200, {"embeddings": [[1.0], 2.0]}), "vectors of different widths"),
        (answers(200, {"embeddings": [[1.0], ["x"]]}), ""),
    ],
)
def test_a_garbled_answer_is_transient(
    server: OllamaServer, embedder: Embedder, fault: Fault, problem: str
) -> None:
    server.faults.append(fault)
    error = failure(embedder, "first", "second")
    assert isinstance(error, Transient)
    assert f" sent an unusable answer: {problem}" in error.cause
    assert (error.error_class, error.of_the_input) == ("bad_answer", True)


def test_tokens_are_none_where_they_are_not_counted(
    server: OllamaServer, embedder: Embedder
) -> None:
    server.faults.append(answers(200, {"embeddings": [[1.0]]}))
    assert embedder.embed(["a text"], "document").tokens is None


def test_an_answer_that_breaks_off_is_unreachable(server: OllamaServer, embedder: Embedder) -> None:
    server.faults.append(cut_short)
    assert failure(embedder).error_class == "unreachable"


def test_a_model_that_is_being_loaded_is_waited_for_longer(
    server: OllamaServer, opened: Open
) -> None:
    embedder = opened(
        "ollama:nomic-embed-text", ollama_host=server.root, embedding_timeout_seconds=0.05
    )
    server.loading_seconds = 0.2
    embedder.embed(["a text"], "document")
    server.faults.append(hang)
    error = failure(embedder)
    assert error.error_class == "timed_out"
    assert "within 0.05 s" in error.cause
