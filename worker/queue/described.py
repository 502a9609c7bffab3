"""What the stored vectors of a column belong to."""

from __future__ import annotations

from dataclasses import dataclass

from worker.queue.calls import Calls
from worker.queue.targets import Target


@dataclass(frozen=True, slots=True)
class StoredKind:
    """The key of a watched table, and the type of its vectors: `vector` or `halfvec`.

    `database_id` tells this database from others.
    """

    database_id: str
    key_columns: list[str]
    key_types: list[str]
    vector_type: str


class DescribeCalls(Calls):
    """Tells what stored vectors belong to."""

    def describe(self, target: Target) -> StoredKind:
        """Return the key of a table and the type of its vectors. Raises Busy if it is locked."""
        [kind] = self._rows(
            StoredKind,
            "describe_embeddings",
            **target.arguments,
        )
        return kind
