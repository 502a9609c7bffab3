"""No answer of a server is trusted: neither its time, its size, its numbers nor its redirects."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest

from tests.conftest import rest_in_full
from tests.hostile_server import HostileServer, Pieces, answered, bomb, dripped, endless
from tests.http_server import ModelServer, answers
from tests.openai_server import OpenAIServer
from tests.unit.conftest import Open, failure
from worker.embedders.base import Embedder
from worker.errors import ProviderRefused, Rejected, Transient, WorkerError

KEY = "sk-test-Zk3vQ8mW1xT6yB0cR5nHd7Lp"
QUICK = 0.2  # seconds of time-out

PROVIDERS = ["openai", "ollama", "http", "gemini", "cohere"]
each_provider = pytest.mark.parametrize("provider", PROVIDERS)


def settings_for(provider: str, root: str) -> tuple[str, dict[str, Any]]:
    """The model and the settings that lead to `root`."""
    return {
        "openai": ("openai:m", {"openai_base_url": root, "openai_api_key": KEY}),
        "ollama": ("ollama:m", {"ollama_host": root}),
        "gemini": ("gemini:m", {"gemini_base_url": root, "gemini_api_key": KEY}),
        "cohere": ("cohere:m", {"cohere_base_url": root, "cohere_api_key": KEY}),
        "http": (
            f"http:{root}/embed",
            {"next_public_api_base_url": root, "embedding_api_token": KEY},
        ),
    }[provider]


def at(opened: Open, provider: str, root: str, **more: Any) -> Embedder:
    model, settings = settings_for(provider, root)
    return opened(model, **settings | more)


def raised(opened: Open, provider: str, pieces: Pieces, **more: Any) -> Any:
    """What `embed` raises where this is what the server sends."""
    with HostileServer(pieces) as server:
        return failure(at(opened, provider, server.root, **more))


# Time


SLOW = {
    "the status": dripped(b"", b"H"),
    "the headers": dripped(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "one header": dripped(b"HTTP/1.1 200 OK\r\nx: "),
    "the body": dripped(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b" "),
    "chunks": endless(b" "),
    "the size of a chunk": dripped(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;"),
    "an error": endless(b" ", "500 Broken"),
    "a redirect": endless(b" ", "307 Elsewhere", location="http://127.0.0.1:9/"),
    "early hints": dripped(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "nothing, packed": endless(b"\x00\x00\x00\xff\xff", content_encoding="deflate"),
}


@pytest.mark.parametrize(
    ("provider", "pieces"),
    rest_in_full(
        [
            *(pytest.param("openai", pieces, id=name) for name, pieces in SLOW.items()),
            *(pytest.param(provider, SLOW["the body"], id=provider) for provider in PROVIDERS[1:]),
        ],
        first=4,
    ),
)
def test_a_server_that_sends_a_little_now_and_then_is_not_waited_for(
    opened: Open, monkeypatch: pytest.MonkeyPatch, provider: str, pieces: Pieces
) -> None:
    monkeypatch.setattr("worker.embedders.ollama.LOADING_SECONDS", QUICK)
    with HostileServer(pieces, drips=True) as server:
        error = failure(at(opened, provider, server.root, embedding_timeout_seconds=QUICK))
    assert isinstance(error, Transient)
    assert (error.error_class, error.of_the_input) == ("timed_out", True)
    assert " did not answer within " in error.cause


def test_a_server_that_reads_nothing_is_not_waited_for(opened: Open) -> None:
    with HostileServer(never_listens=True) as server:
        embedder = at(opened, "openai", server.root, embedding_timeout_seconds=QUICK)
        error = failure(embedder, "long " * 4_000_000)
    assert error.error_class == "timed_out"


def test_of_the_info_of_a_server_that_is_slow_nothing_is_learned(opened: Open) -> None:
    info = dripped(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b" ")
    with HostileServer(info, drips=True) as server:
        embedder = at(opened, "openai", server.root, embedding_timeout_seconds=QUICK)
        with pytest.raises(WorkerError, match="did not answer within"):
            embedder.probe()
        assert server.requests == 2  # for /info, and for a letter


# Size


LARGE = {
    "plain": endless(b" " * 2**20),
    "gzip": answered(*bomb(31), content_encoding="gzip"),
    "zlib": answered(*bomb(15), content_encoding="deflate"),
    "deflate": answered(*bomb(-15), content_encoding="deflate"),
    "with a length": lambda: [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3000000000\r\n\r\n",
        *[b" " * 2**20] * 70,
    ],
}


@pytest.mark.parametrize("pieces", rest_in_full(LARGE.values(), first=2), ids=LARGE.keys())
def test_an_answer_is_not_read_beyond_64_megabytes(opened: Open, pieces: Pieces) -> None:
    error = raised(opened, "openai", pieces)
    assert isinstance(error, Transient)
    assert (error.error_class, error.of_the_input) == ("bad_answer", True)
    assert error.cause.endswith(" sent an unusable answer: more than 64 MB")


@pytest.mark.parametrize("encoding", ["gzip, gzip", "identity,deflate"])
def test_an_answer_that_is_packed_more_than_once_is_not_unpacked(
    opened: Open, encoding: str
) -> None:
    error = raised(opened, "openai", answered(*bomb(31), content_encoding=encoding))
    assert error.cause.endswith(" sent an unusable answer: it is compressed more than once")


def test_an_answer_that_is_packed_once_is_understood(opened: Open) -> None:
    body = b'{"embedding": [3, 4]}'
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        with HostileServer(answered(packed, content_encoding=encoding)) as server:
            answer = at(opened, "http", server.root).embed(["a text"], "document")
        assert answer.vectors.tolist() == [[3, 4]]


def test_an_answer_that_only_says_that_it_is_packed_is_a_bad_one(opened: Open) -> None:
    for encoding in ("gzip", "deflate"):
        error = raised(opened, "openai", answered(b"no archive", content_encoding=encoding))
        assert isinstance(error, Transient)


@pytest.mark.parametrize(
    ("status", "packed"), [("400 Bad", False), ("401 No", True), ("500 Broken", False)]
)
def test_of_an_error_only_the_beginning_is_read(opened: Open, status: str, packed: bool) -> None:
    pieces = endless(b"words " * 2**18, status)
    if packed:
        pieces = answered(*bomb(31), status=status, content_encoding="gzip")
    error = raised(opened, "openai", pieces)
    assert f" answered {status[:3]}: " in error.cause
    kinds = {"400": Rejected, "401": ProviderRefused, "500": Transient}
    assert isinstance(error, kinds[status[:3]])


HEADERS = {
    "one": b"x: " + b"y" * 2_000_000 + b"\r\n\r\n",
    "many": b"x: y\r\n" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
def test_headers_without_end_are_not_read(opened: Open, headers: bytes) -> None:
    error = raised(opened, "openai", lambda: [b"HTTP/1.1 200 OK\r\n" + headers])
    assert isinstance(error, Transient)


# Elsewhere


@each_provider
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(opened: Open, provider: str, status: int) -> None:
    with ElsewhereServer() as elsewhere, ElsewhereServer() as server:
        where = f"{elsewhere.root.replace('//', '//me:hunter2@')}/a/b?key=hunter2#c"
        server.faults.append(answers(status, {}, location=where))
        error = failure(at(opened, provider, server.root))
        assert len(server.requests) == 1
        assert not elsewhere.requests
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(f" answered {status}: it redirects to {elsewhere.root}/a/b")
    assert "correct" in str(error.hint)


@pytest.mark.parametrize("location", ["/elsewhere", "//169.254.169.254/", "http://[", "", "a b"])
def test_a_redirect_of_any_kind_is_an_error(opened: Open, location: str) -> None:
    with ElsewhereServer() as server:
        server.faults.append(answers(307, {}, location=location))
        error = failure(at(opened, "openai", server.root))
        assert len(server.requests) == 1
    assert " 307" in error.cause or "ValueError" in error.cause or "unusable" in error.cause


def test_a_redirect_of_its_info_is_not_followed(opened: Open) -> None:
    with ElsewhereServer() as elsewhere, ElsewhereServer() as server:
        server.faults += [answers(307, {}, location=f"{elsewhere.root}/info")]
        with pytest.raises(WorkerError):
            at(opened, "openai", server.root).probe()
        assert not elsewhere.requests


def test_no_cookie_is_sent_back(opened: Open) -> None:
    with ElsewhereServer() as server:
        embedder = at(opened, "http", server.root)
        server.faults += [answers(200, [1], **{"set-cookie": "a=b"})] * 2
        embedder.embed(["a text"], "document")
        embedder.embed(["a text"], "document")
        assert not any("cookie" in request.headers for request in server.requests)


class ElsewhereServer(ModelServer):
    """Answers nothing but its faults."""

    def due(self, request: Any) -> Any:
        return answers(404)(None)  # type: ignore[arg-type]


# Numbers and shapes


DIGITS = "9" * 5000
VECTOR = "[1, 0, 0, 0]"

ODD = {
    "deep": "[" * 5_000_000,
    "deep objects": '{"data":' * 200_000,
    "a number without end": DIGITS * 20,
    "a key without end": f'{{"{"x" * 1_000_000}": 1}}',
    "no UTF-8": b"\xff\xfe{}",
    "half of a pair": '{"error": "\\ud800"}',
    "a name twice": '{"data": [], "data": 1}',
    "text": '"words"',
    "null": "null",
    "a huge element": f'{{"embedding": [{DIGITS}], "embeddings": [[{DIGITS}]]}}',
    "objects as numbers": '{"embedding": [{}], "embeddings": [[{}]], "data": [{}]}',
    "ragged values": '{"embeddings": [{"values": [[1], [1, 2]]}]}',
    "no values": '{"embeddings": [{"values": null}]}',
    "a type without vectors": '{"embeddings": {"float": null, "base64": [{}]}}',
    "no base64": '{"embeddings": {"base64": ["*"]}, "data": [{"embedding": "*"}]}',
    "ragged": '{"embedding": [[1], [1, 2]], "embeddings": [[[1], [1, 2]]], "data": [[[1], [1,2]]]}',
}


@each_provider
@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
def test_whatever_the_answer_is_it_is_a_bad_one(
    opened: Open, provider: str, body: str | bytes
) -> None:
    content = body if isinstance(body, bytes) else body.encode()
    with ElsewhereServer() as server:
        server.faults.append(answers(200, content))
        error = failure(at(opened, provider, server.root))
    assert isinstance(error, Transient)
    assert (error.error_class, error.of_the_input) == ("bad_answer", True)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_whatever_an_error_says_it_has_the_class_of_its_status(
    opened: Open, status: int, body: str | bytes
) -> None:
    content = body if isinstance(body, bytes) else body.encode()
    with ElsewhereServer() as server:
        server.faults.append(answers(status, content))
        error = failure(at(opened, "openai", server.root))
    kinds = {400: Rejected, 404: ProviderRefused, 429: Transient, 500: Transient}
    assert isinstance(error, kinds[status])


@pytest.mark.parametrize("problem", [KeyError, MemoryError, RecursionError, UnicodeError, OSError])
@pytest.mark.parametrize("where", ["read_json", "shared_out"])
def test_whatever_goes_wrong_here_is_a_bad_answer(
    opened: Open, monkeypatch: pytest.MonkeyPatch, problem: type[Exception], where: str
) -> None:
    def fail(*_: object) -> None:
        raise problem(KEY)

    monkeypatch.setattr(f"worker.embedders.vendor.{where}", fail)
    body = f'{{"data": [{{"embedding": {VECTOR}}}], "usage": {{"total_tokens": 1}}}}'
    with ElsewhereServer() as server:
        server.faults.append(answers(200, body.encode()))
        error = failure(at(opened, "openai", server.root))
    assert isinstance(error, Transient)
    assert error.error_class == "bad_answer"
    assert KEY not in error.cause


TOKENS = ["-1", "2147483648", "1e3", "1e999", DIGITS[:4000], '"7"', "true", "null", "[]", "NaN"]


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_number_of_tokens_that_the_queue_cannot_hold_is_unsaid(opened: Open, tokens: str) -> None:
    bodies = {
        "openai": '{"data": [{"index": 0, "embedding": %s}], "usage": {"total_tokens": %s}}',
        "ollama": '{"embeddings": [%s], "prompt_eval_count": %s}',
        "http": '{"embedding": %s, "tokens": %s}',
        "gemini": '{"embeddings": [{"values": %s}], "usageMetadata": {"promptTokenCount": %s}}',
        "cohere": '{"embeddings": {"float": [%s]}, "meta": {"billed_units": {"input_tokens": %s}}}',
    }
    for provider, body in bodies.items():
        with ElsewhereServer() as server:
            server.faults.append(answers(200, (body % (VECTOR, tokens)).encode()))
            answer = at(opened, provider, server.root).embed(["a text"], "document")
        assert answer.tokens is None
        assert answer.vectors.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("number", [DIGITS, "0", "٣٣"])
@pytest.mark.parametrize(
    ("words", "error_class"),
    [
        ("maximum context length is {0} tokens, you asked for {0} tokens", "too_long"),
        ("`inputs` must have less than {0} tokens. Given: {0}", "too_long"),
        ("batch size 6 > maximum allowed batch size {0}", "too_large"),
        ("should have at most {0} items", "too_large"),
    ],
)
def test_a_limit_in_words_that_cannot_be_is_not_learned(
    opened: Open, number: str, words: str, error_class: str
) -> None:
    with ElsewhereServer() as server:
        server.faults.append(answers(400, {"message": words.format(number)}))
        embedder = at(opened, "openai", server.root)
        error = failure(embedder, *"abcdef")
    assert isinstance(error, Rejected)
    assert error.error_class == error_class
    assert error.share is None
    assert 1 <= embedder.request_limits.items <= 33


NO_COUNTS: list[object] = [0, -1, 1.5, "8", None, []]
INFO: dict[str, object] = {
    "max_client_batch_size": 10**30,
    "max_input_length": 10**30,
    "max_concurrent_requests": 10**30,
}


@pytest.mark.parametrize(
    "info",
    [
        *(INFO | {name: 10**4000} for name in INFO),
        *(INFO | {name: odd} for name in INFO for odd in NO_COUNTS),
        INFO,
    ],
)
def test_what_a_server_says_of_itself_is_held_to_what_can_be(
    opened: Open, info: dict[str, object]
) -> None:
    with OpenAIServer() as server:
        embedder = at(opened, "openai", server.base_url)
        server.faults.append(answers(200, info))
        with pytest.raises(WorkerError):
            embedder.probe()  # it knows no model `m`
    assert 1 <= embedder.request_limits.items <= 2048
    assert embedder.request_limits.tokens_per_text >= 1
    assert 1 <= embedder.concurrency.first <= embedder.concurrency.most <= 32


# Order


def items(*indexes: object) -> list[dict[str, object]]:
    """Items whose vector is their place, with these indexes; with none for `...`."""
    return [
        {"embedding": [place]} | ({} if index is ... else {"index": index})
        for place, index in enumerate(indexes)
    ]


@pytest.mark.parametrize(
    ("indexes", "order"),
    [
        ((..., ..., ...), [0, 1, 2]),
        ((..., 1, 2), [0, 1, 2]),
        ((2, 1, ...), [2, 1, 0]),
        ((2, 0, 1), [1, 2, 0]),
        ((...,), [0]),
    ],
)
def test_vectors_without_an_index_are_in_order(
    opened: Open, indexes: tuple[object, ...], order: list[int]
) -> None:
    with ElsewhereServer() as server:
        server.faults.append(answers(200, {"data": items(*indexes)}))
        answer = at(opened, "openai", server.root).embed(
            [str(place) for place in order], "document"
        )
    assert answer.vectors.tolist() == [[place] for place in order]


@pytest.mark.parametrize(
    "indexes",
    [
        *[(0, 0, 1), (0, 1, 3), (-1, 0, 1), (1, 2, 3), (0, ..., 1), (..., ..., 2)],
        *[(False, True, 2), (0.0, 1.0, 2.0), ("0", "1", "2"), (0, 1, None), (0, 1, []), (0, 1, {})],
        (0, 1, 10**30),
    ],
)
def test_an_index_that_cannot_be_is_a_bad_answer(opened: Open, indexes: tuple[object, ...]) -> None:
    with ElsewhereServer() as server:
        server.faults.append(answers(200, {"data": items(*indexes)}))
        error = failure(at(opened, "openai", server.root), "a", "b", "c")
    assert isinstance(error, Transient)
    assert error.error_class == "bad_answer"
    assert "index" in error.cause


# Names


@pytest.mark.parametrize(
    "name",
    [
        *("../../admin", "..%2f..%2fadmin", "m?x=1", "/m", "//evil.example/m", "@evil"),
        *("m\r\nhost: evil.example", "http://evil.example/", "m\\..", "..", "m\x00"),
    ],
)
@pytest.mark.parametrize(
    ("provider", "path"),
    [("openai", "/v1/embeddings"), ("azure", "/openai/v1/embeddings"), ("ollama", "/api/embed")],
)
def test_the_name_of_a_model_does_not_choose_the_address(
    opened: Open, provider: str, path: str, name: str
) -> None:
    with ElsewhereServer() as server:
        settings: dict[str, dict[str, Any]] = {
            "openai": {"openai_base_url": f"{server.root}/v1"},
            "azure": {"azure_openai_endpoint": server.root, "azure_openai_api_key": KEY},
            "ollama": {"ollama_host": server.root},
        }
        failure(opened(f"{provider}:{name}", **settings[provider]))
        [request] = server.requests
    assert (request.path, request.headers["host"]) == (path, server.root.removeprefix("http://"))
    assert request.body["model"] == name


def test_a_known_model_is_asked_for_fewer_dimensions_whoever_serves_it(opened: Open) -> None:
    with ElsewhereServer() as server:
        settings = {"openai_base_url": server.root, "openai_api_key": KEY}
        failure(opened("openai:Qwen/Qwen3-Embedding-8B", 2000, **settings))
        failure(opened("openai:BAAI/bge-m3", 512, **settings))
        assert [request.body.get("dimensions") for request in server.requests] == [2000, None]
