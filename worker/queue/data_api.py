"""The queue over the Data API of a Supabase project."""

from __future__ import annotations

from datetime import datetime

from worker.queue.admin_calls import AdminCalls
from worker.queue.damage import DamageCalls
from worker.queue.dashboard import DashboardCalls
from worker.queue.files import FileCalls
from worker.queue.safekeeping import SafekeepingCalls
from worker.queue.transports.data_api import DataApiTransport
from worker.queue.worker_calls import WorkerCalls


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
