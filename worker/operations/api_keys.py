"""The keys by which apps call the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from secrets import token_urlsafe
from typing import get_args

from worker.errors import SettingsError
from worker.queue import AdminQueue, CallSource, KeyScope, ValidKey

PREFIX = "ew_"
RANDOM_BYTES = 32
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)


def create_key(
    queue: AdminQueue,
    name: str,
    scopes: Sequence[str],
    *,
    requests_per_minute: int | None = None,
    expires_in: timedelta | None = None,
    source: CallSource = "api",
) -> str:
    """Return a new key. It cannot be had again: only its hash is stored.

    Raises SettingsError if there is a key of this name, or an argument cannot be used.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise SettingsError(
            f"these are no scopes of a key: {', '.join(unknown) or 'none'}",
            f"The scopes are {', '.join(SCOPES)}.",
        )
    key = PREFIX + token_urlsafe(RANDOM_BYTES)
    queue.create_api_key(
        name,
        _hash_of(key),
        [scope for scope in SCOPES if scope in scopes],
        requests_per_minute=requests_per_minute,
        expires_in=expires_in,
        source=source,
    )
    return key


def revoke_key(queue: AdminQueue, name: str, *, source: CallSource = "api") -> None:
    """Revoke the key of this name for good. Raises SettingsError if there is none."""
    if not queue.revoke_api_key(name, source=source):
        raise SettingsError(
            f"there is no key named {name} that is not revoked", "`worker keys list` lists them."
        )


def find_key(queue: AdminQueue, key: str) -> ValidKey | None:
    """Return what a key may do; None if it is not valid."""
    return queue.find_api_key(_hash_of(key))


def _hash_of(key: str) -> bytes:
    return sha256(key.encode()).digest()
