"""Stored vectors as backups have them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from worker.queue.transports import Vector


@dataclass(slots=True)
class StoredRow:
    """A vector with what its job records. Of a text in chunks, a chunk: `record_id` is then that of
    the text, `content_hash` that of the chunk, and the figures of the job are None."""

    record_id: str
    content_hash: bytes
    model: str
    tokens: int | None
    cost: float | None
    truncated_to: int | None
    unenhanced: str | None
    completed_at: datetime | None
    vector: Vector
