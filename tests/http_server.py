"""What the stand-ins for models' servers share: HTTP on this machine, and how it goes wrong.

A stand-in says in `due` what a request gets by rights. Whatever it is, each entry of `faults`
spoils one answer, `latency` delays all, and `requests` holds what arrived.
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
from socketserver import TCPServer
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


def vector_for(text: str, dimensions: int) -> Vector:
    """The vector every stand-in gives to `text`, of unit length and the same on every machine.

    A shorter one is the beginning of a longer one, scaled to unit length: so does OpenAI.
    """
    noise = np.frombuffer(shake_256(text.encode()).digest(2 * dimensions), dtype="<i2") + 0.5
    return (noise / np.linalg.norm(noise)).astype(np.float32)


def text_for(prompt: str, data: str) -> str:
    """What every stand-in of a chat model writes, the same on every machine."""
    about, by = (shake_256(text.encode()).hexdigest(4) for text in (data, prompt))
    return f"This is about {about}, as {by} demands."


def tokens_in(text: str) -> int:
    """What `text` counts for in usage and against limits."""
    return -(-len(text.encode()) // 4)


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    method: str = "POST"

    @property
    def texts(self) -> list[str]:
        fields = ("input", "text", "texts", "inputText")
        given: Any = next((self.body[name] for name in fields if name in self.body), [])
        if "requests" in self.body:  # as Gemini has them
            given = [each["content"]["parts"][0]["text"] for each in self.body["requests"]]
        if "messages" in self.body:
            given = [each["content"] for each in self.body["messages"]]
        return [given] if isinstance(given, str) else given

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return int(self.headers.get("content-length", 0))

    @property
    def bearer(self) -> str:
        """The key that was sent, or nothing."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key if scheme == "Bearer" else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. One that is `cut` ends half-way through its body, and the connection too."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


Fault = Callable[[Answer], Answer | None]
"""Makes the answer that is sent out of the one that is due. None is silence."""


def answers(status: int, body: object = b"", **headers: str) -> Fault:
    """`body` as it is if it is bytes, else as JSON."""
    content = body if isinstance(body, bytes) else as_json(body)
    return lambda due: Answer(status, content, headers)


def not_json(due: Answer) -> Answer:
    return Answer(200, b"<html>Please log in</html>", {"content-type": "text/html"})


def hang(due: Answer) -> None:
    """Say nothing until the client has gone or the server ends."""


def cut_short(due: Answer) -> Answer:
    return replace(due, cut=True)


def as_json(body: object) -> bytes:
    return json.dumps(body).encode()


def in_base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def from_base64(embedding: str) -> Vector:
    return np.frombuffer(base64.b64decode(embedding), dtype="<f4")


class ModelServer:
    """A server at `root`, from `with` until its end, for any number of clients at once."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """All that arrived, in order."""
        self.latency = 0.0
        """Seconds from the arrival of a request to its answer."""
        self.faults: deque[Fault] = deque()
        """Each spoils one answer, first come first served."""
        self.stall: Callable[[str], bool] | None = None
        """To a request holding such a text the server never says anything."""
        self.stumble: Callable[[str], bool] | None = None
        """Over a request holding such a text the server has an internal error, each time."""
        self.closing = threading.Event()
        self._http = _Listener(self)
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

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
        due = self.due(request)
        if self.stall and any(map(self.stall, request.texts)):
            return None
        if self.stumble and any(map(self.stumble, request.texts)):
            return self.stumbled(due)
        try:
            fault = self.faults.popleft()
        except IndexError:
            return due
        return fault(due)

    def read(self, content: bytes) -> dict[str, Any]:
        """The body of a request."""
        body: dict[str, Any] = json.loads(content)
        return body

    def due(self, request: Request) -> Answer:
        """What `request` gets if nothing goes wrong."""
        raise NotImplementedError

    def stumbled(self, due: Answer) -> Answer:
        """What it gets where something within the server fails."""
        raise NotImplementedError

    def headers(self) -> dict[str, str]:
        """The headers of every answer."""
        return {"content-type": "application/json"}


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, owner: ModelServer) -> None:
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

    def do_GET(self) -> None:
        self._respond({})

    do_HEAD = do_DELETE = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        content = self.rfile.read(length)
        if len(content) < length:  # the client was killed while it asked
            self.close_connection = True
            return
        self._respond(self.server.owner.read(content))

    def _respond(self, body: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.answer(Request(self.path, headers, body, self.command))
        if answer is None:
            self.server.owner.closing.wait()
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in (self.server.owner.headers() | dict(answer.headers)).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
        self.close_connection = self.close_connection or answer.cut

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
