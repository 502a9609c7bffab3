"""The watched columns, as the names of models in the API."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from worker.errors import DatabaseError, SettingsError
from worker.queue import Target, searched_by
from worker.settings import Settings
from worker.web.queues import Queues

KNOWN_FOR = 5.0  # seconds


@dataclass(slots=True)
class Columns:
    """Reads the watched columns at most once in KNOWN_FOR; while the database is out of reach they
    are as they were."""

    settings: Settings
    queues: Queues
    _targets: list[Target] = field(default_factory=list)
    _until: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def targets(self) -> list[Target]:
        """Return the columns. Raises Unreachable if they were never read."""
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    with self.queues.lent() as queue:
                        self._targets = queue.targets()
                except DatabaseError:
                    if not self._until:
                        raise
                self._until = time.monotonic() + KNOWN_FOR
            return self._targets

    def models(self) -> dict[str, str]:
        """Return all that may be asked for by name, and whose it is."""
        targets = self.targets()
        columns = {target.public_name: "column" for target in targets if target.is_serving}
        names = {target.model or self.settings.embedding_model for target in targets}
        names.add(self.settings.embedding_model)
        return columns | {name: name.partition(":")[0] for name in sorted(names)}

    def find(self, name: str) -> Target | str:
        """Return the column of this name, or the name if it is that of a model.

        While a column is re-embedded, it is the one that a search uses. Raises SettingsError.
        """
        targets = self.targets()
        for target in targets:
            for column in (target.named_column, target.embedding_column):
                if name == f"{target.table_name}.{column}":
                    table = [each for each in targets if each.table_name == target.table_name]
                    return searched_by(table, column)[0]
        if name in self.models():
            return name
        raise SettingsError(
            "there is no such model", "GET /v1/models lists the columns and models."
        )
