"""Serves the web application, in a thread."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from threading import Thread
from typing import NamedTuple

import uvicorn

from worker.engine.providers import Limiters
from worker.errors import SettingsError
from worker.host import files_to_open
from worker.operations.callers import Callers
from worker.operations.queries import QueryEmbedder
from worker.operations.session import open_queue
from worker.settings import Settings
from worker.web.access import Access
from worker.web.app import create_app
from worker.web.guard import LOOPBACK
from worker.web.protocol import PatientProtocol
from worker.web.queues import Queues
from worker.web.services import Services, Traced

MOST_CONNECTIONS = 1200
BACKLOG = 256  # connections that are taken at once, before any of them is counted
LONGEST_QUERY = 30.0  # seconds until its vector is there
GRACE = 1  # seconds for requests that are being answered when the server stops
# Their logs would print what a defect had in hand.
NOTHING = {"level": 60}
SILENT = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"uvicorn": NOTHING, "mcp": NOTHING},
}
END_WITHIN = 5.0  # seconds


class Served(NamedTuple):
    """Where browsers find the server, the port it listens on, and the token that was made up for
    it; None: it was set."""

    url: str
    port: int
    token: str | None


@contextmanager
def served(
    settings: Settings,
    address: str | None = None,
    on_defect: Callable[[str], None] = lambda _: None,
    limiters: Limiters | None = None,
    traced: Traced | None = None,
) -> Iterator[Served]:
    """Serve the dashboard and the API until the end of the `with`.

    `on_defect` gets the kind of each error that nobody expected. `limiters` are those of a run in
    the same process. `traced` makes a span for each request to the API.

    Raises SettingsError if the address is not available, or is open to others while no token is
    set.
    """
    host, port = _host_and_port(address or settings.worker_web_address)
    if host not in LOOPBACK and not settings.worker_web_token:
        raise SettingsError(
            f"{host} can be reached from elsewhere, and WORKER_WEB_TOKEN is not set",
            "Set it to a long random word, or serve 127.0.0.1.",
        )
    access = Access.of(settings)
    with (
        _listening(host, port) as listener,
        closing(Queues(partial(open_queue, settings))) as queues,
        closing(QueryEmbedder(settings, limiters, queues.lent, LONGEST_QUERY)) as queries,
        closing(Callers(settings)) as callers,
    ):
        port = listener.getsockname()[1]
        services = Services(
            settings, queues, access, on_defect, queries, callers, host, traced=traced
        )
        with _running(services, listener):
            shown = f"[{host}]" if ":" in host else host
            url = settings.worker_web_url or f"http://{shown}:{port}"
            yield Served(url, port, None if settings.worker_web_token else access.tokens["admin"])


class ClosingServer(uvicorn.Server):
    """Calls `close` before it waits for the connections to end."""

    close: Callable[[], None]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.close()
        await super().shutdown(sockets)


@contextmanager
def _running(services: Services, listener: socket.socket) -> Iterator[None]:
    """Run the server in a thread, until the end of the `with`."""
    app = create_app(services)
    config = uvicorn.Config(
        app.asgi,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=SILENT,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
        backlog=BACKLOG,
        limit_concurrency=files_to_open(2 * MOST_CONNECTIONS) // 2,  # half is for the rest
    )
    server = ClosingServer(config)
    server.close = app.close
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(END_WITHIN)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        [(family, *_, bound), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.create_server(bound[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as problem:
        code = problem.errno if isinstance(problem, OSError) else None
        reason = os.strerror(code) if code and code > 0 else "there is no such address"
        raise SettingsError(
            f"{host}:{port} cannot be served: {reason}", "Give another --address HOST:PORT."
        ) from None
    # asyncio sets it only for sockets that name their protocol: without it, the body of an answer
    # waits up to 40 ms until its head has arrived
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with closing(listener):
        yield listener


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise SettingsError(
            f"the address is not HOST:PORT: {address}", "Give one like 127.0.0.1:8080."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
