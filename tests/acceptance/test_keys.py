"""The commands about keys of the HTTP API."""

from __future__ import annotations

import json

from tests.conftest import Worker


def test_a_key_is_shown_once(worker: Worker) -> None:
    made = worker("keys", "create", "shop", "--scope", "search", "--expires-in", "90d")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("ew_")
    assert "not shown again" in made.stderr
    listed = worker("keys", "list")
    assert [*listed.stdout.splitlines()[1].split()[:3]] == ["shop", "valid", "search"]
    assert key not in listed.stdout
    assert worker("keys", "revoke", "shop").returncode == 0
    [described] = json.loads(worker("keys", "list", "--json").stdout)
    assert described["revoked_at"] is not None
    assert key not in str(described)


def test_what_makes_no_sense_is_refused_in_two_lines(worker: Worker) -> None:
    for arguments in (
        ("create", "shop", "--scope", "everything"),
        ("create", "../shop", "--scope", "embed"),
        ("revoke", "shop"),
    ):
        refused = worker("keys", *arguments)
        assert refused.returncode == 2
        assert [line.split(":")[0] for line in refused.stderr.splitlines()] == ["error", "hint"]
        assert refused.stdout == ""
