"""The queue over the Data API of a Supabase project."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from worker.queue.admin_calls import AdminCalls
from worker.queue.damage import DamageCalls
from worker.queue.dashboard import DashboardCalls
from worker.queue.files import FileCalls
from worker.queue.safekeeping import SafekeepingCalls
from worker.queue.search import Match, MatchFunction
from worker.queue.transports.data_api import DataApiTransport, encoded
from worker.queue.transports.rest import Rest
from worker.queue.worker_calls import WorkerCalls


class DataApiCallers:
    """Searches in the name of callers. The project at `url` checks their tokens. Several threads
    may use it."""

    def __init__(self, url: str, key: str, application_name: str) -> None:
        """Create the client, and send nothing yet."""
        self._rest = Rest(url, key, application_name)

    def check(self, token: str) -> None:
        """Raise CallerRefused unless the token is valid."""
        self._rest.check(token)

    def search(
        self, token: str, function: MatchFunction, arguments: Mapping[str, Any]
    ) -> list[Match]:
        """Search by a match function, with the rights of who has this token.

        Raises CallerRefused if the token is not valid, or its owner may not call the function.
        """
        rows = self._rest.call_as(
            token,
            function.schema_name,
            function.function_name,
            {name: encoded(type_, arguments[name]) for name, type_ in function.arguments.items()},
        )
        return function.matches_of(rows)

    def close(self) -> None:
        self._rest.close()


class DataApiQueue(
    WorkerCalls, AdminCalls, DashboardCalls, FileCalls, SafekeepingCalls, DamageCalls
):
    """The queue in the project at `url`, for workers and commands.

    Methods raise what a Transport raises, and SettingsError if the project refuses the key.
    """

    def __init__(self, url: str, key: str, application_name: str) -> None:
        """Create the queue, and send nothing yet."""
        self._api = DataApiTransport(url, key, application_name)
        super().__init__(self._api)

    def session(self) -> None:
        return None

    def clock(self) -> datetime:
        self._call("embedding_schema_version")
        return self._api.answered_at
