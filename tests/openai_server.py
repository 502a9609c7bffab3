"""A stand-in for the paid HTTP API: OpenAI's embeddings endpoint, as documented, on this machine.

    with OpenAIServer() as server:
        server.faults += [rate_limited(**{"retry-after": "2"}), hang]
        client = OpenAI(base_url=server.base_url, api_key=server.api_key)

It refuses what OpenAI refuses, in OpenAI's words, and misbehaves on request: each entry of
`faults` spoils one answer. Tokens are counted as a quarter of the UTF-8 bytes, which is how OpenAI
itself counts them against the limit of a request; its tokenizer cannot be had offline.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import shake_256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from socketserver import TCPServer
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

WIDTHS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
MAX_ITEMS = 2048
MAX_TOKENS_PER_TEXT = 8192
MAX_TOKENS_PER_REQUEST = 300_000
INVALID_INPUT = (
    "'$.input' is invalid. Please check the API reference: "
    "https://platform.openai.com/docs/api-reference."
)


def vector_for(text: str, dimensions: int) -> Vector:
    """The vector the server gives to `text`, of unit length and the same on every machine.

    A shorter one is the beginning of a longer one, scaled to unit length: so does OpenAI.
    """
    noise = np.frombuffer(shake_256(text.encode()).digest(2 * dimensions), dtype="<i2") + 0.5
    return (noise / np.linalg.norm(noise)).astype(np.float32)


def tokens_in(text: str) -> int:
    """What `text` counts for in `usage` and against the limits."""
    return -(-len(text.encode()) // 4)


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        given = self.body.get("input", [])
        return [given] if isinstance(given, str) else given


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. One that is `cut` ends half-way through its body, and the connection too."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


Fault = Callable[[Answer], Answer | None]
"""Makes the answer that is sent out of the one that is due. None is silence."""


# Faults that stand in for the answer.


def answers(status: int, body: object = b"", **headers: str) -> Fault:
    """`body` as it is if it is bytes, else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda due: Answer(status, content, headers)


def rate_limited(**headers: str) -> Fault:
    message = "Rate limit reached for text-embedding-3-small in organization org-x on requests"
    return answers(429, _error(message, "requests", "rate_limit_exceeded"), **headers)


def out_of_quota(due: Answer) -> Answer:
    message = "You exceeded your current quota, please check your plan and billing details."
    return Answer(429, _json(_error(message, "insufficient_quota", "insufficient_quota")))


def server_error(due: Answer) -> Answer:
    message = "The server had an error while processing your request. Sorry about that!"
    return Answer(500, _json(_error(message, "server_error")))


def unavailable(due: Answer) -> Answer:
    message = "The engine is currently overloaded, please try again later"
    return Answer(503, _json(_error(message, "server_error")))


def error_with_status_200(due: Answer) -> Answer:
    """As some gateways do when the server behind them fails."""
    return Answer(200, _json(_error("upstream connect error", "server_error")))


def not_json(due: Answer) -> Answer:
    return Answer(200, b"<html>Please log in</html>", {"content-type": "text/html"})


def hang(due: Answer) -> None:
    """Say nothing until the client has gone or the server ends."""


# Faults that spoil the answer.


def cut_short(due: Answer) -> Answer:
    return replace(due, cut=True)


def without_usage(due: Answer) -> Answer:
    body = json.loads(due.body)
    del body["usage"]
    return replace(due, body=_json(body))


def with_items(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Fault:
    def fault(due: Answer) -> Answer:
        body = json.loads(due.body)
        return replace(due, body=_json(body | {"data": change(body["data"])}))

    return fault


def with_vectors(change: Callable[[Vector], Vector]) -> Fault:
    def changed(item: dict[str, Any]) -> dict[str, Any]:
        return item | {"embedding": _encoded(change(_decoded(item["embedding"])))}

    return with_items(lambda items: [changed(item) for item in items])


wrong_width = with_vectors(lambda vector: vector[:-1])
not_a_number = with_vectors(lambda vector: np.append(vector[:-1], np.float32("nan")))
zeros = with_vectors(np.zeros_like)
too_few_items = with_items(lambda items: items[:-1])
wrong_order = with_items(lambda items: items[::-1])
as_lists = with_items(
    lambda items: [item | {"embedding": _decoded(item["embedding"]).tolist()} for item in items]
)
"""A server that does not know of base64."""


class OpenAIServer:
    """The API at `base_url`, from `with` until its end, for any number of clients at once."""

    def __init__(self, api_key: str = "sk-test-Zk3vQ8mW1xT6yB0cR5nHd7Lp") -> None:
        self.api_key = api_key
        self.requests: list[Request] = []
        """All that arrived, in order."""
        self.latency = 0.0
        """Seconds from the arrival of a request to its answer."""
        self.faults: deque[Fault] = deque()
        """Each spoils one answer, first come first served."""
        self.reject: Callable[[str], bool] | None = None
        """A request holding such a text is refused, without a word on which it is."""
        self.stumble: Callable[[str], bool] | None = None
        """Over a request holding such a text the server has an internal error, each time."""
        self.closing = threading.Event()
        self._request_numbers = count(1)
        self._http = _Listener(self)
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.close_connections()
        self._http.server_close()
        self._thread.join()

    def answer(self, request: Request) -> Answer | None:
        """What `request` gets, after the latency and the next fault. None is silence."""
        # Lists and deques change in one step under the interpreter lock, and need no other.
        self.requests.append(request)
        self.closing.wait(self.latency)
        due = self._due(request)
        if self.stumble and any(map(self.stumble, request.texts)):
            return server_error(due)
        try:
            fault = self.faults.popleft()
        except IndexError:
            return due
        return fault(due)

    def headers(self) -> dict[str, str]:
        """The headers of every answer."""
        return {
            "content-type": "application/json",
            "x-request-id": f"req_{next(self._request_numbers):032x}",
            "x-ratelimit-limit-requests": "3000",
            "x-ratelimit-limit-tokens": "1000000",
            "x-ratelimit-remaining-requests": "2999",
            "x-ratelimit-remaining-tokens": "999000",
            "x-ratelimit-reset-requests": "20ms",
            "x-ratelimit-reset-tokens": "60ms",
        }

    def _due(self, request: Request) -> Answer:
        return (
            self._wrong_key(request)
            or _wrong_path(request)
            or _wrong_model(request)
            or _wrong_input(request)
            or self._rejected(request)
            or _embeddings(request)
        )

    def _wrong_key(self, request: Request) -> Answer | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            return _refusal(401, "You didn't provide an API key.")
        if key == self.api_key:
            return None
        return _refusal(
            401,
            f"Incorrect API key provided: {_masked(key)}. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )

    def _rejected(self, request: Request) -> Answer | None:
        if self.reject is None or not any(map(self.reject, request.texts)):
            return None
        return _refusal(400, INVALID_INPUT)


def _wrong_path(request: Request) -> Answer | None:
    if request.path == "/v1/embeddings":
        return None
    return _refusal(404, f"Invalid URL (POST {request.path})")


def _wrong_model(request: Request) -> Answer | None:
    model, dimensions = request.body.get("model"), request.body.get("dimensions")
    if model not in WIDTHS:
        return _refusal(
            404,
            f"The model `{model}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    if dimensions is None:
        return None
    if not model.startswith("text-embedding-3-"):
        return _refusal(400, "This model does not support specifying dimensions.")
    if not 1 <= dimensions <= WIDTHS[model]:
        return _refusal(400, f"Invalid value for 'dimensions': at most {WIDTHS[model]}.")
    return None


def _wrong_input(request: Request) -> Answer | None:
    texts = request.texts
    if not 1 <= len(texts) <= MAX_ITEMS or not all(text and type(text) is str for text in texts):
        return _refusal(400, INVALID_INPUT)
    tokens = [tokens_in(text) for text in texts]
    if sum(tokens) > MAX_TOKENS_PER_REQUEST:
        limit = "max_tokens_per_request"
        message = f"Requested {sum(tokens)} tokens, max {MAX_TOKENS_PER_REQUEST} tokens per request"
        return _refusal(400, message, kind=limit, code=limit)
    if max(tokens) > MAX_TOKENS_PER_TEXT:
        return _refusal(
            400,
            f"This model's maximum context length is {MAX_TOKENS_PER_TEXT} tokens, however you "
            f"requested {max(tokens)} tokens ({max(tokens)} in your prompt; 0 for the completion)."
            " Please reduce your prompt; or completion length.",
        )
    return None


def _embeddings(request: Request) -> Answer:
    model = request.body["model"]
    width = request.body.get("dimensions") or WIDTHS[model]
    in_base64 = request.body.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(request.texts):
        vector = vector_for(text, width)
        embedding = _encoded(vector) if in_base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(map(tokens_in, request.texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(200, _json({"object": "list", "data": data, "model": model, "usage": usage}))


def _refusal(
    status: int, message: str, kind: str = "invalid_request_error", code: str | None = None
) -> Answer:
    return Answer(status, _json(_error(message, kind, code)))


def _error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _masked(key: str) -> str:
    # OpenAI repeats both ends of a wrong key, and a short one whole.
    return key if len(key) < 12 else key[:8] + "*" * (len(key) - 12) + key[-4:]


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


def _encoded(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _decoded(embedding: str) -> Vector:
    return np.frombuffer(base64.b64decode(embedding), dtype="<f4")


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, owner: OpenAIServer) -> None:
        self.owner = owner
        self._open: set[Any] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the DNS for the name of this machine, and wait where there is none.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        with self._changed:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def close_connections(self) -> None:
        """Wake the threads that wait for a next request, and wait until each has closed its end."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about clients that have gone: some tests make them go."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one piece; in two, each answer would take 40 ms
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        content = self.rfile.read(length)
        if len(content) < length:  # the client was killed while it asked
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.answer(Request(self.path, headers, json.loads(content)))
        if answer is None:
            self.server.owner.closing.wait()
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in (self.server.owner.headers() | dict(answer.headers)).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
        self.close_connection = self.close_connection or answer.cut

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
