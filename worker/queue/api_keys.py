"""The keys of the HTTP API, of which only hashes are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from worker.queue.audit import CallSource
from worker.queue.calls import Calls

KeyScope = Literal["embed", "search", "status"]
"""What a key may do: embed texts, search all rows, read the state of the columns."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without itself. `requests_per_minute`: its rate limit; None: no limit. `last_used_at`
    is exact to a minute."""

    name: str
    scopes: list[KeyScope]
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class ValidKey:
    """What a key that is valid may do, and until when."""

    name: str
    scopes: list[KeyScope]
    requests_per_minute: int | None
    expires_at: datetime | None


class ApiKeyCalls(Calls):
    """Creates, lists, finds and revokes keys."""

    def create_api_key(
        self,
        name: str,
        key_hash: bytes,
        scopes: Sequence[KeyScope],
        *,
        requests_per_minute: int | None = None,
        expires_in: timedelta | None = None,
        source: CallSource = "api",
    ) -> None:
        self._call(
            "create_embedding_api_key",
            name=name,
            key_hash=key_hash,
            scopes=list(scopes),
            requests_per_minute=requests_per_minute,
            expires_in=expires_in,
            source=source,
        )

    def revoke_api_key(self, name: str, *, source: CallSource = "api") -> bool:
        return bool(self._call("revoke_embedding_api_key", name=name, source=source))

    def api_keys(self) -> list[ApiKey]:
        return self._read(ApiKey, "embedding_api_keys", "created_at", "name")

    def find_api_key(self, key_hash: bytes) -> ValidKey | None:
        found = self._rows(ValidKey, "embedding_api_key", key_hash=key_hash)
        return found[0] if found else None
