"""`worker serve`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.cli.console import say
from worker.cli.environment import load_settings
from worker.cli.options import WebAddress
from worker.cli.signals import stopped_by_signals
from worker.engine.events import EVENTS, sentence
from worker.engine.providers import Limiters
from worker.errors import SettingsError
from worker.observers.tracing import request_spans
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.web.server import Served


def serve(address: WebAddress = None) -> None:
    """Serve the dashboard and the HTTP API, until stopped."""
    settings = load_settings()
    stopping = stopped_by_signals("the requests that are being answered")
    with stopping as stop, served_here(settings, address, _say_event) as server:
        say_where(server)
        stop.wait()


@contextmanager
def served_here(
    settings: Settings,
    address: str | None,
    emit: Callable[..., None],
    limiters: Limiters | None = None,
) -> Iterator[Served]:
    """Serve them until the end of the `with`. `emit` gets events, also from other threads;
    `limiters` are those of a run in this process.

    Raises SettingsError if they cannot be served.
    """
    try:
        from worker.web.server import served
    except ImportError as problem:
        raise SettingsError(
            f"the dashboard needs the package {(problem.name or 'starlette').partition('.')[0]}",
            "pip install 'embedding-worker[web]'",
        ) from None

    def on_defect(kind: str) -> None:
        emit("web_failed", cause=kind)

    with (
        request_spans(emit) as traced,
        served(settings, address, on_defect, limiters, traced) as server,
    ):
        yield server


def say_where(server: Served) -> None:
    """Print where the dashboard is, and the token that was made up."""
    say(f"serving the dashboard and the API at {server.url}")
    if server.token:
        say(f"log in with {server.url}/login?token={server.token}")
        say("hint: the token is another one after each start; WORKER_WEB_TOKEN sets it")


def _say_event(name: str, **fields: object) -> None:
    say(f"{EVENTS[name][0]}: {sentence(name, fields)}")
