"""An HTTP server that limits its connections in time and in number."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Lock
from typing import Any

MOST_CONNECTIONS = 32  # at once; for one more, the oldest is closed
LONGEST_CONNECTION = 10.0  # seconds


class BoundedServer(ThreadingHTTPServer):
    """Answers each connection in its own thread, for LONGEST_CONNECTION at most, MOST_CONNECTIONS
    at once. A further connection replaces the oldest, which is likely one that sends nothing.

    Raises OSError or UnicodeError if the address is not available.
    """

    request_queue_size = 4 * MOST_CONNECTIONS
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: dict[Any, float] = {}  # connections, oldest first, and until when
        self._lock = Lock()
        [(self.address_family, *_, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        super().__init__((str(address[0]), port), handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the DNS for the name of this machine, and wait where there is none.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        with self._lock:
            if len(self._open) >= MOST_CONNECTIONS:
                self._cut(next(iter(self._open)))
            self._open[connection] = time.monotonic() + LONGEST_CONNECTION
        return connection, address

    def service_actions(self) -> None:
        """Close connections whose time is over. Called twice a second."""
        with self._lock:
            now = time.monotonic()
            for connection in [found for found, until in self._open.items() if now > until]:
                self._cut(connection)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def _cut(self, connection: Any) -> None:
        """Wake the thread of a connection, which then closes it."""
        del self._open[connection]
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of connections that were closed by either side."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
