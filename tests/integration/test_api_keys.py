"""The keys of the HTTP API: what is stored of them, who is let in, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import Database, rows, value
from worker.errors import SettingsError
from worker.operations.api_keys import create_key, find_key, revoke_key
from worker.queue import AdminQueue


def test_a_key_is_known_by_its_hash_alone(db: Database, queue: AdminQueue) -> None:
    key = create_key(
        queue, "my app", ["search", "embed"], requests_per_minute=60, expires_in=timedelta(days=1)
    )
    assert key.startswith("ew_")
    assert len(key) == 3 + 43
    [stored] = rows(db, "select key.*::text from embedding_api_keys as key")
    assert key[3:] not in stored[0]
    assert value(db, "select key_hash = sha256(%s::bytea) from embedding_api_keys", key)
    found = find_key(queue, key)
    assert found is not None
    assert (found.name, found.scopes, found.requests_per_minute) == (
        "my app",
        ["embed", "search"],
        60,
    )
    for other in ("", "ew_", key[:-1], key + "=", key.upper()):
        assert find_key(queue, other) is None
    assert create_key(queue, "another", ["status"]) != key


def test_a_key_ends_when_it_is_revoked_or_its_time_is_over(db: Database, queue: AdminQueue) -> None:
    short, other = create_key(queue, "short", ["embed"]), create_key(queue, "other", ["embed"])
    db.execute("update embedding_api_keys set expires_at = now() where name = 'short'")
    assert find_key(queue, short) is None
    assert find_key(queue, other)
    revoke_key(queue, "other")
    assert find_key(queue, other) is None
    for name in ("other", "unknown"):
        with pytest.raises(SettingsError, match=f"no key named {name} that is not revoked"):
            revoke_key(queue, name)
    assert [key.revoked_at is None for key in queue.api_keys()] == [True, False]


def test_the_last_use_is_noted_once_a_minute_and_waits_for_nobody(
    db: Database, queue: AdminQueue
) -> None:
    key = create_key(queue, "app", ["embed"])
    assert queue.api_keys()[0].last_used_at is None
    find_key(queue, key)
    first = queue.api_keys()[0].last_used_at
    assert first is not None
    assert datetime.now(UTC) - first < timedelta(minutes=1)
    find_key(queue, key)
    assert queue.api_keys()[0].last_used_at == first
    db.execute("update embedding_api_keys set last_used_at = now() - interval '2 minutes'")
    with db.transaction():
        db.execute("select from embedding_api_keys for update")
        assert find_key(queue, key)
    find_key(queue, key)
    assert value(db, "select last_used_at > now() - interval '1 minute' from embedding_api_keys")


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"name": ""}, "the name ''"),
        ({"name": "a\nb"}, "cannot have the name"),
        ({"name": "x" * 101}, "cannot have the name"),
        ({"scopes": []}, "no scopes of a key: none"),
        ({"scopes": ["embed", "all"]}, "no scopes of a key: all"),
        ({"requests_per_minute": 0}, "of no use"),
        ({"expires_in": timedelta(0)}, "of no use"),
        ({"expires_in": timedelta(days=-1)}, "of no use"),
    ],
)
def test_what_makes_no_sense_is_refused(
    queue: AdminQueue, given: dict[str, Any], cause: str
) -> None:
    with pytest.raises(SettingsError, match=cause):
        create_key(queue, **({"name": "app", "scopes": ["embed"]} | given))
    assert queue.api_keys() == []


def test_a_name_stays_taken(queue: AdminQueue) -> None:
    create_key(queue, "app", ["embed"])
    revoke_key(queue, "app")
    with pytest.raises(SettingsError, match="a key named 'app' already"):
        create_key(queue, "app", ["embed"])


def test_the_audit_says_who_made_and_revoked_a_key(queue: AdminQueue) -> None:
    key = create_key(queue, "app", ["status"], source="cli")
    revoke_key(queue, "app", source="cli")
    revoked, created = queue.audit(limit=2)
    assert (created.event, created.source) == ("key_created", "cli")
    assert created.figures == {"key": "app", "scopes": ["status"]}
    assert (revoked.event, revoked.figures) == ("key_revoked", {"key": "app"})
    assert key not in str([created, revoked])
