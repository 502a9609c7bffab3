"""The keys of the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from worker.cli.render.tables import out_table
from worker.cli.render.text import ago
from worker.queue import ApiKey


def print_keys(keys: Sequence[ApiKey]) -> None:
    """Print a line for each key."""
    out_table(
        ["name", "state", "scopes", "requests/min", "created", "last used", "expires"],
        [_cells(key) for key in keys],
    )


def _cells(key: ApiKey) -> tuple[object, ...]:
    return (
        key.name,
        _state(key),
        ", ".join(key.scopes),
        key.requests_per_minute,
        ago(key.created_at),
        ago(key.last_used_at) if key.last_used_at else "never",
        key.expires_at.date() if key.expires_at else None,
    )


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= datetime.now(UTC) else "valid"
