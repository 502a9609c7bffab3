"""A stand-in for a hostile server: it sends what is no HTTP, far too much, or far too slowly.

    with HostileServer(dripped(b"HTTP/1.1 200 OK\\r\\n")) as server:
        environment = {"OPENAI_BASE_URL": server.root}

It answers each connection with the same pieces of bytes, whatever it is asked, until the client has
gone. `requests` counts the connections that sent it something.
"""

from __future__ import annotations

import socketserver
import threading
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, repeat
from typing import Self

Pieces = Callable[[], Iterable[bytes]]
"""What is sent to a connection, from its beginning."""

PAUSE = 0.01  # seconds between two pieces
MEGABYTE = 2**20


class HostileServer:
    """Sends `pieces` to each connection at `root`, with a PAUSE after each if it `drips`.

    One that `never_listens` reads nothing of what it is sent, and sends nothing.
    """

    def __init__(
        self, pieces: Pieces = tuple, *, drips: bool = False, never_listens: bool = False
    ) -> None:
        self.pieces = pieces
        self.drips = drips
        self.never_listens = never_listens
        self.requests = 0
        self.closing = threading.Event()
        self._server = _Listener(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, owner: HostileServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: _Listener

    def handle(self) -> None:
        owner = self.server.owner
        if owner.never_listens:
            owner.closing.wait()
            return
        with suppress(OSError):
            if not self.request.recv(MEGABYTE):
                return
            owner.requests += 1
            for piece in owner.pieces():
                self.request.sendall(piece)
                if owner.drips and owner.closing.wait(PAUSE):
                    return
            owner.closing.wait()


def answered(*body: bytes, status: str = "200 OK", **headers: str) -> Pieces:
    """An answer with these headers, and a body in these pieces, sent in chunks."""
    lines = [f"HTTP/1.1 {status}", "transfer-encoding: chunked"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return lambda: chain([head], map(in_chunks, body), [b"0\r\n\r\n"])


def endless(piece: bytes, status: str = "200 OK", **headers: str) -> Pieces:
    """The same, with a body that never ends."""
    begin = answered(status=status, **headers)
    return lambda: chain([next(iter(begin()))], repeat(in_chunks(piece)))


def dripped(begin: bytes, drop: bytes = b"x") -> Pieces:
    """`begin`, and `drop` for ever after."""
    return lambda: chain([begin], repeat(drop))


def in_chunks(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def bomb(window: int, megabytes: int = 128) -> list[bytes]:
    """This many megabytes of spaces, packed by zlib with these `wbits`, without their end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    # After a full flush, the same text is packed as the same bytes.
    first, other = (
        packer.compress(b" " * MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return [first, *[other] * (megabytes - 1)]
