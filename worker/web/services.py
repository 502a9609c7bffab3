"""What all handlers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from worker.operations.callers import Callers
from worker.operations.queries import QueryEmbedder
from worker.settings import Settings
from worker.web.access import Access
from worker.web.checkup import Checkup
from worker.web.guard import LOOPBACK
from worker.web.queues import Queues
from worker.web.tasks import Tasks

Traced = Callable[[ASGIApp, str], ASGIApp]
"""Wraps what answers at a route."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all handlers share. `host` is the one that the server listens on; `on_defect` gets the
    kind of an error that nobody expected. `traced` makes a span for each request to the API."""

    settings: Settings
    queues: Queues
    access: Access
    on_defect: Callable[[str], None]
    queries: QueryEmbedder
    callers: Callers
    host: str = "127.0.0.1"
    tasks: Tasks = field(default_factory=Tasks)
    checkup: Checkup = field(default_factory=Checkup)
    traced: Traced | None = None

    @property
    def prefix(self) -> str:
        """The path under which a proxy serves this server: empty, or like `/worker`."""
        return urlsplit(self.settings.worker_web_url or "").path.rstrip("/")

    @property
    def hosts(self) -> frozenset[str]:
        """The names by which browsers may know this server."""
        public = urlsplit(self.settings.worker_web_url or "").hostname
        return frozenset(filter(None, (*LOOPBACK, self.host, public)))

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach this server by HTTPS."""
        return (self.settings.worker_web_url or "").startswith("https:")
