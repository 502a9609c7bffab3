"""A server with OpenAI's embeddings API that does as little work as possible, in its own process.

Its vectors are computed in advance, in both encodings of the API. It may have a limit of requests a
minute: a token bucket that holds a tenth of the limit. It states the limit in its headers, or not.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.database import some_vectors

HEAD = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n"
REFUSAL = (
    b'{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}'
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`latency` in seconds; `rpm` is the limit of requests a minute, None for no limit."""

    latency: float = 0.0
    rpm: float | None = None
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """The server at `base_url`, whose behaviour can be changed while it runs."""

    base_url: str
    _pipe: Connection

    def behave(self, behaviour: Behaviour) -> None:
        """Change the behaviour from now on."""
        self._pipe.send(behaviour)
        self._pipe.recv()

    def answers(self) -> tuple[list[float], list[float]]:
        """Return when requests were answered and when they were refused since the last call, by the
        monotonic clock."""
        self._pipe.send(None)
        answered, refused = self._pipe.recv()
        return answered, refused


@contextmanager
def provider(dimensions: int) -> Iterator[Provider]:
    """Run a server while the context lasts."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(theirs, dimensions), daemon=True)
    process.start()
    theirs.close()  # or we would wait for a process that died
    try:
        yield Provider(f"http://127.0.0.1:{ours.recv()}/v1", ours)
    finally:
        process.terminate()
        process.join()


@dataclass(slots=True)
class Bucket:
    """A token bucket for `rpm` requests a minute, which holds a tenth of them."""

    rpm: float
    filled_at: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.rpm / 10

    def take(self, now: float) -> bool:
        """Whether a request is allowed."""
        self.tokens = min(self.tokens + (now - self.filled_at) * self.rpm / 60, self.rpm / 10)
        self.filled_at = now
        is_allowed = self.tokens >= 1
        self.tokens -= is_allowed
        return is_allowed

    @property
    def reset(self) -> float:
        """Seconds until it is full."""
        return (self.rpm / 10 - self.tokens) / (self.rpm / 60)


@dataclass(slots=True)
class _State:
    vectors: Mapping[str, list[bytes]]
    """The same vectors in JSON, by encoding."""
    behaviour: Behaviour = field(default_factory=Behaviour)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    bucket: Bucket | None = None

    def behave(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.bucket = Bucket(behaviour.rpm, time.monotonic()) if behaviour.rpm else None

    def answer(self, body: bytes) -> bytes:
        """Return the complete response to a request, after its latency."""
        now, bucket = time.monotonic(), self.bucket
        if bucket is None:
            self.answered.append(now)
            return self._vectors(body, b"")
        is_allowed = bucket.take(now)
        (self.answered if is_allowed else self.refused).append(now)
        if is_allowed:
            return self._vectors(body, self._headers(bucket))
        return HEAD % (b"429 Too Many Requests", len(REFUSAL), self._headers(bucket)) + REFUSAL

    def _vectors(self, body: bytes, headers: bytes) -> bytes:
        request = json.loads(body)
        vectors = self.vectors[request.get("encoding_format", "float")]
        items = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%s}'
            % (index, vectors[index % len(vectors)])
            for index in range(len(request["input"]))
        )
        content = b'{"object":"list","data":[%s],"usage":{"total_tokens":%d}}' % (
            items,
            len(body) // 4,
        )
        return HEAD % (b"200 OK", len(content), headers) + content

    def _headers(self, bucket: Bucket) -> bytes:
        if self.behaviour.silent:
            return b""
        return (
            b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
            b"x-ratelimit-reset-requests: %.3fs\r\n" % (bucket.rpm, bucket.tokens, bucket.reset)
        )


class _Protocol(asyncio.Protocol):
    def __init__(self, state: _State) -> None:
        self.state = state
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) == length:
            self.received = b""
            loop = asyncio.get_running_loop()
            loop.call_later(self.state.behaviour.latency, self._answer, body)

    def _answer(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.state.answer(body))


def _serve(pipe: Connection, dimensions: int) -> None:
    vectors = some_vectors(dimensions)
    encoded = {
        "base64": [b'"%s"' % base64.b64encode(vector.tobytes()) for vector in vectors],
        "float": [b"[%s]" % b",".join(b"%.9g" % x for x in vector.tolist()) for vector in vectors],
    }
    asyncio.run(_listen(pipe, _State(encoded)))


async def _listen(pipe: Connection, state: _State) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Protocol(state), "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])

    def listen() -> None:
        try:
            told = pipe.recv()
        except EOFError:  # the benchmark was killed
            server.close()
            return
        if told is None:
            pipe.send((state.answered, state.refused))
            state.answered, state.refused = [], []
        else:
            state.behave(told)
            pipe.send(None)

    loop.add_reader(pipe.fileno(), listen)
    with suppress(asyncio.CancelledError):
        await server.serve_forever()
