"""`worker serve`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.cli.console import say
from worker.cli.environment import load_settings
from worker.cli.options import WebAddress
from worker.cli.signals import stopped_by_signals
from worker.errors import SettingsError
from worker.settings import Settings


def serve(address: WebAddress = None) -> None:
    """Serve the dashboard and the HTTP API, until stopped."""
    settings = load_settings()
    stopping = stopped_by_signals("the requests that are being answered")
    with stopping as stop, served_visibly(settings, address):
        stop.wait()


@contextmanager
def served_visibly(settings: Settings, address: str | None) -> Iterator[None]:
    """Serve them until the end of the `with`, and say where.

    Raises SettingsError if they cannot be served.
    """
    try:
        from worker.web.server import served
    except ImportError as problem:
        raise SettingsError(
            f"the dashboard needs the package {(problem.name or 'starlette').partition('.')[0]}",
            "pip install 'embedding-worker[web]'",
        ) from None
    with served(settings, address) as server:
        say(f"serving the dashboard and the API at {server.url}")
        if server.token:
            say(f"log in with {server.url}/login?token={server.token}")
            say("hint: the token is another one after each start; WORKER_WEB_TOKEN sets it")
        yield
