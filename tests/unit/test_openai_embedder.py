"""The OpenAI embedder against a server that speaks OpenAI's dialect, over real HTTP."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from tests.openai_server import (
    Fault,
    OpenAIServer,
    answers,
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
    vector_for,
    with_items,
    with_vectors,
    without_usage,
    wrong_order,
    wrong_width,
    zeros,
)
from worker.embedders.openai import OpenAIEmbedder
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient, WorkerError
from worker.settings import Settings

SMALL = "text-embedding-3-small"

opened: list[OpenAIEmbedder] = []
"""To be closed at the end of a test."""


@pytest.fixture(scope="module")
def running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def long_lived_embedder(running_server: OpenAIServer) -> Iterator[OpenAIEmbedder]:
    embedder = embedder_for(running_server)
    opened.remove(embedder)
    yield embedder
    embedder.close()


@pytest.fixture
def server(running_server: OpenAIServer) -> Iterator[OpenAIServer]:
    running_server.requests.clear()
    running_server.faults.clear()
    running_server.reject = None
    yield running_server
    while opened:
        opened.pop().close()


@pytest.fixture
def embedder(server: OpenAIServer, long_lived_embedder: OpenAIEmbedder) -> OpenAIEmbedder:
    return long_lived_embedder


def embedder_for(
    server: OpenAIServer,
    name: str = SMALL,
    dimensions: int | None = None,
    **settings: Any,
) -> OpenAIEmbedder:
    given: dict[str, Any] = {
        "openai_api_key": server.api_key,
        "openai_base_url": server.base_url,
        "embedding_timeout_seconds": 5.0,
        **settings,
    }
    opened.append(OpenAIEmbedder(name, dimensions, Settings(**given)))
    return opened[-1]


def failure(embedder: OpenAIEmbedder, *texts: str) -> WorkerError:
    """What `embed` raises, after the checks that every error must pass."""
    with pytest.raises(WorkerError) as caught:
        embedder.embed(texts or ["a text"], "document")
    cause = caught.value.cause
    assert cause.isprintable()
    assert len(cause) <= 300
    assert not re.search(r"\bsk-", cause)
    return caught.value


def with_data(*items: object, **more: object) -> Fault:
    return answers(200, {"data": list(items), **more})


ITEM = {"index": 0, "embedding": [1.0]}


def transient(embedder: OpenAIEmbedder) -> Transient:
    error = failure(embedder)
    assert isinstance(error, Transient)
    return error


# Requests


def test_texts_become_the_vectors_that_the_server_computes(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    texts = ["first", "second, with an ümlaut and a 😀", "third"]
    vectors = embedder.embed(texts, "document").vectors
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, [vector_for(text, 1536) for text in texts])
    [request] = server.requests
    assert request.body == {"model": SMALL, "input": texts, "encoding_format": "base64"}
    assert request.headers["authorization"] == f"Bearer {server.api_key}"


def test_a_full_request_is_answered_in_one_piece(server: OpenAIServer) -> None:
    embedder = embedder_for(server, dimensions=8)
    texts = [str(number) for number in range(embedder.request_limits.items)]
    assert len(texts) == 2048
    assert np.array_equal(
        embedder.embed(texts, "document").vectors, [vector_for(text, 8) for text in texts]
    )
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "column", "width", "sent"),
    [
        ("text-embedding-3-small", None, 1536, None),
        ("text-embedding-3-small", 1536, 1536, None),
        ("text-embedding-3-small", 512, 512, 512),
        ("text-embedding-3-large", None, 3072, None),
        ("text-embedding-3-large", 1536, 1536, 1536),
        ("text-embedding-ada-002", 512, 1536, None),
        ("text-embedding-3-small", 3072, 1536, None),  # more than it has, and so not asked for
    ],
)
def test_dimensions_are_sent_only_where_the_model_can_be_shortened_to_the_column(
    server: OpenAIServer, name: str, column: int | None, width: int, sent: int | None
) -> None:
    embedder = embedder_for(server, name, column)
    assert (embedder.model, embedder.dimensions) == (f"openai:{name}", width)
    assert np.array_equal(
        embedder.embed(["a text"], "document").vectors, [vector_for("a text", width)]
    )
    assert server.requests[0].body.get("dimensions") == sent


def test_the_width_of_an_unknown_model_is_unknown_and_not_asked_for(server: OpenAIServer) -> None:
    embedder = embedder_for(server, "nomic-embed-text", 768)
    assert embedder.dimensions is None
    with pytest.raises(WorkerError):
        embedder.embed(["a text"], "document")
    assert "dimensions" not in server.requests[0].body


def test_a_lone_surrogate_is_sent_as_a_question_mark(embedder: OpenAIEmbedder) -> None:
    vectors = embedder.embed(["a\ud800b"], "document").vectors
    assert np.array_equal(vectors, [vector_for("a?b", 1536)])


def test_without_a_key_none_is_sent(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    error = failure(embedder_for(server, openai_api_key=None))
    assert error.cause.endswith("401: You didn't provide an API key.")
    assert "authorization" not in server.requests[0].headers


def test_neither_key_nor_server_is_an_error_of_settings() -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        OpenAIEmbedder(SMALL, None, Settings())


@pytest.mark.parametrize("key", ["sk-two words", "“sk-quoted”", "sk-line\nbreak"])
def test_a_key_that_no_header_can_hold_is_an_error_of_settings(key: str) -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY") as caught:
        OpenAIEmbedder(SMALL, None, Settings(openai_api_key=key))
    assert key not in str(caught.value)


def test_key_and_address_come_from_the_settings_alone(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/from-the-environment")
    embedder_for(server).embed(["a text"], "document")
    assert "from-the-environment" not in str(server.requests)
    with_key_only = OpenAIEmbedder(SMALL, None, Settings(openai_api_key="sk-given"))
    assert with_key_only._connection.host == "api.openai.com"


# Answers


def test_vectors_are_put_into_the_order_of_the_texts(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(wrong_order)
    vectors = embedder.embed(["first", "second"], "document").vectors
    assert np.array_equal(vectors, [vector_for("first", 1536), vector_for("second", 1536)])


def test_a_server_that_ignores_base64_is_understood(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(as_lists)
    vectors = embedder.embed(["a text"], "document").vectors
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, [vector_for("a text", 1536)])


@pytest.mark.parametrize("fault", [not_a_number, zeros, wrong_width])
def test_what_the_numbers_are_is_left_to_the_caller(
    server: OpenAIServer, embedder: OpenAIEmbedder, fault: Fault
) -> None:
    server.faults.append(fault)
    assert embedder.embed(["first", "second"], "document").vectors.shape in {(2, 1536), (2, 1535)}


def test_a_number_beyond_a_float_is_handed_on_as_infinite(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(answers(200, {"data": [{"index": 0, "embedding": [1e39, None, 1]}]}))
    [[infinite, missing, one]] = embedder.embed(["a text"], "document").vectors
    assert np.isinf(infinite)
    assert np.isnan(missing)
    assert one == 1


def test_tokens_are_shared_out_by_length_and_add_up(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    texts = ["a", "bb", "ünïcödé", "d" * 40, "e"]
    assert embedder.embed(texts, "document").tokens == [0, 1, 3, 12, 0]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 99, "total_tokens": 100}, [33, 67]),
        ({"prompt_tokens": 7}, [2, 5]),
        ({"prompt_tokens": 7, "total_tokens": None}, [2, 5]),
        ({"total_tokens": 0}, [0, 0]),
        ({"total_tokens": -1}, None),
        ({"total_tokens": "many"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_tokens_are_what_the_server_counted_or_none(
    server: OpenAIServer, embedder: OpenAIEmbedder, usage: object, tokens: list[int] | None
) -> None:
    server.faults.append(with_data(ITEM, ITEM | {"index": 1}, usage=usage))
    assert embedder.embed(["a", "bb"], "document").tokens == tokens


def test_tokens_are_none_without_usage(server: OpenAIServer, embedder: OpenAIEmbedder) -> None:
    server.faults.append(without_usage)
    assert embedder.embed(["a text"], "document").tokens is None


# Refusals


def test_a_wrong_key_is_refused_and_never_repeated(server: OpenAIServer) -> None:
    key = "sk-wrong-" + "x1Y2" * 8
    error = failure(embedder_for(server, openai_api_key=key))
    assert isinstance(error, ProviderRefused)
    assert error.cause.startswith("127.0.0.1:")
    assert "401: Incorrect API key provided: [redacted]. You can find" in error.cause
    assert "x1Y2" not in error.cause
    assert error.hint == "Check OPENAI_API_KEY, then start again."
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("key", "words", "told"),
    [
        ("s3cret", "no such key: s3cret!", "no such key: [redacted]!"),
        ("abcdefgh-ijkl-mnop", "got abcdefgh-ijkl-mnop.", "got [redacted]."),
        ("abcdefgh-ijkl-mnop", "got abcdefgh...mnop, sorry", "got [redacted], sorry"),
        ("a+b/c=d~e!f(g)h*ijkl", "got a+b/c=d~e!f(g)h*ijkl", "got [redacted]"),
    ],
)
def test_no_part_of_the_key_is_repeated(
    server: OpenAIServer, key: str, words: str, told: str
) -> None:
    server.faults.append(answers(401, {"error": {"message": words}}))
    assert failure(embedder_for(server, openai_api_key=key)).cause.endswith(f" 401: {told}")


@pytest.mark.parametrize("spelled", [str, str.upper])
def test_the_digest_of_the_key_is_not_repeated(
    server: OpenAIServer, spelled: Callable[[str], str]
) -> None:
    key = "s3cret"
    digest = spelled(sha256(key.encode()).hexdigest())
    server.faults.append(answers(401, {"error": {"message": f"Key Hash (Token) ={digest}. Sorry"}}))
    error = failure(embedder_for(server, openai_api_key=key))
    assert error.cause.endswith(" 401: Key Hash (Token) =[redacted]. Sorry")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("got YOUR_K****3456.", "got [redacted]."),
        ("Received API Key = sk-...2345, sorry", "Received API Key = [redacted], sorry"),
        ("got sk-proj-abcd_efgh.", "got [redacted]."),
        ("got Bearer eyJhbGciOiJIUzI1NiJ9.e30", "got [redacted]"),
        ("the desk-top of a Bearer token", "the desk-top of a Bearer token"),
    ],
)
def test_whatever_looks_like_a_key_is_taken_out(
    server: OpenAIServer, embedder: OpenAIEmbedder, words: str, told: str
) -> None:
    server.faults.append(answers(401, {"error": {"message": words}}))
    assert failure(embedder).cause.endswith(f" 401: {told}")


def test_an_unknown_model_is_refused_with_a_hint(server: OpenAIServer) -> None:
    error = failure(embedder_for(server, "text-embedding-9"))
    assert isinstance(error, ProviderRefused)
    assert "404: The model `text-embedding-9` does not exist" in error.cause
    assert (error.error_class, error.of_the_model) == ("not_found", True)
    assert "OPENAI_BASE_URL" in str(error.hint)


def test_a_wrong_base_url_is_refused(server: OpenAIServer) -> None:
    error = failure(embedder_for(server, openai_base_url=server.base_url + "/embeddings"))
    assert isinstance(error, ProviderRefused)
    assert "Invalid URL (POST /v1/embeddings/embeddings)" in error.cause


@pytest.mark.parametrize("status", [402, 405, 407])
def test_what_no_text_is_to_blame_for_is_refused(
    server: OpenAIServer, embedder: OpenAIEmbedder, status: int
) -> None:
    server.faults.append(answers(status, b""))
    error = failure(embedder)
    assert isinstance(error, ProviderRefused)
    assert "OPENAI_BASE_URL" in str(error.hint)


def test_a_key_without_permission_is_refused(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(answers(403, {"error": {"message": "Country not supported"}}))
    error = failure(embedder)
    assert isinstance(error, ProviderRefused)
    assert "403: Country not supported" in error.cause
    assert (error.error_class, error.of_the_model) == ("unauthorized", False)


@pytest.mark.parametrize(
    "fault",
    [
        out_of_quota,
        answers(429, {"error": {"message": "x", "type": "insufficient_quota", "code": None}}),
        answers(429, {"error": {"message": "x", "code": "billing_not_active"}}),
    ],
)
def test_an_account_without_credit_is_refused(
    server: OpenAIServer, embedder: OpenAIEmbedder, fault: Fault
) -> None:
    server.faults.append(fault)
    error = failure(embedder)
    assert isinstance(error, ProviderRefused)
    assert "credit" in str(error.hint)
    assert (error.error_class, error.of_the_model) == ("out_of_credit", False)


def test_the_words_insufficient_quota_alone_do_not_refuse(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(answers(429, {"error": {"message": "INSUFFICIENT QUOTA", "code": 429}}))
    assert "INSUFFICIENT QUOTA" in transient(embedder).cause


# Failures that pass


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (304, "provider_error"),
        (408, "timed_out"),
        (409, "overloaded"),
        (424, "provider_error"),
        (425, "overloaded"),
        (429, "rate_limited"),
        (500, "provider_error"),
        (502, "provider_error"),
        (503, "overloaded"),
        (504, "timed_out"),
        (529, "overloaded"),
    ],
)
def test_a_status_that_passes_is_transient(
    server: OpenAIServer, embedder: OpenAIEmbedder, status: int, error_class: str
) -> None:
    server.faults.append(answers(status))
    error = transient(embedder)
    assert error.cause.endswith(f" answered {status}: no message")
    assert error.error_class == error_class
    assert error.retry_after is None
    assert error.of_the_input == (status in (424, 500))


def test_a_failed_request_is_not_repeated_by_the_client(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(server_error)
    assert "500: The server had an error while" in transient(embedder).cause
    assert len(server.requests) == 1
    assert embedder.embed(["a text"], "document").vectors.shape == (1, 1536)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "60"}, 60),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_the_wait_that_a_rate_limit_asks_for_is_passed_on(
    server: OpenAIServer, embedder: OpenAIEmbedder, headers: dict[str, str], seconds: float | None
) -> None:
    server.faults.append(rate_limited(**headers))
    assert transient(embedder).retry_after == seconds


def test_a_wait_until_a_date_is_counted_from_now(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.faults.append(answers(503, **{"retry-after": date}))
    assert transient(embedder).retry_after == pytest.approx(90, abs=5)


def test_a_server_that_says_nothing_is_given_up_after_the_time_out(server: OpenAIServer) -> None:
    server.faults.append(hang)
    error = transient(embedder_for(server, embedding_timeout_seconds=0.05))
    assert error.cause.endswith(" did not answer within 0.05 s")
    assert error.error_class == "timed_out"


def test_a_server_that_is_not_there_is_named() -> None:
    with OpenAIServer() as gone:
        embedder = embedder_for(gone)
    error = transient(embedder)
    assert error.cause.startswith("the connection to 127.0.0.1:")
    assert error.cause.endswith(
        f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', "
        f"{gone.root.rpartition(':')[2]})"
    )
    assert error.error_class == "unreachable"


def test_the_stand_in_can_end_while_requests_wait() -> None:
    with OpenAIServer() as server:
        embedder = embedder_for(server, embedding_timeout_seconds=0.01)
        server.faults.append(hang)
        transient(embedder)
        server.latency = 60
        transient(embedder)


def test_a_connection_that_breaks_within_the_answer_is_transient(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(cut_short)
    assert "the connection to 127.0.0.1:" in transient(embedder).cause
    assert embedder.embed(["a text"], "document").vectors.shape == (1, 1536)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (answers(200), "not JSON: nothing at all"),
        (not_json, "not JSON: <html>Please log in</html>"),
        (answers(200, b'{"data": [{"index": 0, "emb'), "not JSON"),
        (answers(200, b"[" * 100_000), "not JSON"),
        (answers(200, b"\xff\xfe\x00"), "not JSON"),
        (answers(200, []), "no list `data` in []"),
        (answers(200, {"message": "later"}), "no list `data` in later"),
        (answers(200, {"data": None}), "no list `data`"),
        (error_with_status_200, "an error with status 200: upstream connect error"),
        (answers(200, {"error": "busy", "data": []}), "an error with status 200: busy"),
        (with_data(), "0 vectors for 1 texts"),
        (with_data(ITEM, ITEM), "2 vectors for 1 texts"),
        (with_data("text"), "an item without `embedding`"),
        (with_data({"index": 0}), "an item without `embedding`"),
        (with_data({"index": "0", "embedding": [1.0]}), "an `index` that is not a whole number"),
        (with_data({"index": 0, "embedding": None}), "an item without `embedding`"),
        (with_data({"index": 1, "embedding": [1.0]}), "indexes other than 0 to 0"),
        (with_data({"index": 0, "embedding": ""}), ""),
        (with_data({"index": 0, "embedding": []}), "vectors of different widths, or of none"),
        (with_data({"index": 0, "embedding": [[1.0]]}), "vectors of different widths, or of none"),
        (with_data({"index": 0, "embedding": [{}]}), ""),
        (with_data({"index": 0, "embedding": [10**400]}), ""),
        (with_data({"index": 0, "embedding": ["x"]}), ""),
        (with_data({"index": 0, "embedding": "AAAA"}), ""),
        (with_data({"index": 0, "embedding": "no base64!"}), ""),
        (with_data({"index": 0, "embedding": "AAAAAAAA\nAAAAAAAA"}), ""),
        (with_data({"index": 0, "embedding": "ü"}), ""),
    ],
)
def test_a_garbled_answer_is_transient(
    server: OpenAIServer, embedder: OpenAIEmbedder, fault: Fault, problem: str
) -> None:
    server.faults.append(fault)
    error = transient(embedder)
    assert f" sent an unusable answer: {problem}" in error.cause
    assert error.error_class == "bad_answer"


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (too_few_items, "1 vectors for 2 texts"),
        (with_items(lambda items: [items[0], items[0]]), "indexes other than 0 to 1, each once"),
        (with_items(lambda items: [items[0], ITEM | {"index": 1}]), "vectors of different widths"),
    ],
)
def test_an_answer_that_does_not_fit_the_texts_is_transient(
    server: OpenAIServer, embedder: OpenAIEmbedder, fault: Fault, problem: str
) -> None:
    server.faults.append(fault)
    error = failure(embedder, "first", "second")
    assert isinstance(error, Transient)
    assert problem in error.cause


# Texts that are refused


@pytest.mark.parametrize(
    ("texts", "words", "error_class"),
    [
        (["good", ""], "400: '$.input' is invalid.", "rejected"),
        (["good"] * 2049, "400: '$.input' is invalid.", "rejected"),
        (["good", "x" * 40_000], "400: This model's maximum context length is 8192", "too_long"),
        (["x" * 30_000] * 41, "400: Requested 307500 tokens, max 300000", "too_large"),
        (["good", "guilty"], "400: '$.input' is invalid.", "rejected"),
    ],
)
def test_a_request_that_openai_refuses_is_rejected_in_its_words(
    server: OpenAIServer, embedder: OpenAIEmbedder, texts: list[str], words: str, error_class: str
) -> None:
    server.reject = lambda text: text == "guilty"
    error = failure(embedder, *texts)
    assert isinstance(error, Rejected)
    assert words in error.cause
    assert error.error_class == error_class


@pytest.mark.parametrize(
    ("status", "body", "words", "error_class"),
    [
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, "x", "too_long"),
        (400, {"error": {"message": "x", "type": "context_length_exceeded"}}, "x", "too_long"),
        (400, {"error": {"message": "x", "code": ["odd"], "type": {}}}, "x", "rejected"),
        (400, {"error": "unable to embed"}, "unable to embed", "rejected"),
        (400, ["odd"], '["odd"]', "rejected"),
        (413, b"length limit exceeded", "length limit exceeded", "too_large"),
        (413, b"", "no message", "too_large"),
        (422, b"", "no message", "rejected"),
        (422, {"message": "batch size 64 > 32", "code": 422}, "batch size 64 > 32", "too_large"),
        (429, {"error": {"message": "Request too large for x"}}, "Request too large", "too_large"),
        (422, {"detail": "too short"}, "too short", "rejected"),
        (422, {"detail": [{"loc": ["body"]}]}, '{"detail": [{"loc": ["body"]}]}', "rejected"),
    ],
)
def test_a_request_that_another_server_refuses_is_rejected_in_its_words(
    server: OpenAIServer, status: int, body: object, words: str, error_class: str
) -> None:
    server.faults.append(answers(status, body))
    error = failure(embedder_for(server), "one", "another")
    assert isinstance(error, Rejected)
    assert f" answered {status}: {words}" in error.cause
    assert error.error_class == error_class


def test_what_is_too_large_with_one_text_is_a_text_too_long(server: OpenAIServer) -> None:
    server.faults.append(answers(413, b"length limit exceeded"))
    error = failure(embedder_for(server))
    assert isinstance(error, Rejected)
    assert error.error_class == "too_long"


def test_words_of_many_lines_become_one_short_line_that_postgres_can_store(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    words = "a \x00\n\tb\x1b[31m\ud800 " + "long " * 100_000
    server.faults.append(answers(400, {"error": {"message": words}}))
    cause = failure(embedder).cause
    assert " answered 400: a b [31m long long" in cause
    assert len(cause) == 300
    assert cause.endswith("…")


# The stand-in


def test_the_stand_in_shortens_vectors_as_openai_does() -> None:
    whole, short = vector_for("a text", 1536), vector_for("a text", 256)
    assert np.linalg.norm(short) == pytest.approx(1)
    assert np.allclose(short, whole[:256] / np.linalg.norm(whole[:256]), atol=1e-6)
    assert not np.allclose(short, vector_for("another", 256))


def test_the_stand_in_spoils_every_vector_of_an_answer(
    server: OpenAIServer, embedder: OpenAIEmbedder
) -> None:
    server.faults.append(with_vectors(lambda vector: vector * 2))
    norms = np.linalg.norm(embedder.embed(["first", "second"], "document").vectors, axis=1)
    assert norms == pytest.approx([2, 2])
