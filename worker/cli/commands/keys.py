"""The commands about keys of the HTTP API: `keys create`, `list`, `revoke`."""

from __future__ import annotations

from dataclasses import asdict

from worker.cli.console import out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import AsJson, ExpiresIn, KeyName, KeyScopes, RequestsPerMinute
from worker.cli.render.keys import print_keys
from worker.durations import parse_duration
from worker.operations.api_keys import create_key, revoke_key
from worker.operations.session import open_queue


def create(
    name: KeyName,
    scope: KeyScopes,
    requests_per_minute: RequestsPerMinute = None,
    expires_in: ExpiresIn = None,
) -> None:
    """Create a key for an app, and print it. It is shown once: only its hash is stored."""
    valid_for = parse_duration(expires_in) if expires_in is not None else None
    with open_queue(load_settings()) as queue:
        key = create_key(
            queue,
            name,
            scope,
            requests_per_minute=requests_per_minute,
            expires_in=valid_for,
            source="cli",
        )
    out(key)
    say(f"Give it to {name} now: it is not shown again.")


def list_keys(as_json: AsJson = False) -> None:
    """List the keys of apps, without the keys themselves."""
    with open_queue(load_settings()) as queue:
        keys = queue.api_keys()
    if as_json:
        out_json([asdict(key) for key in keys])
    elif keys:
        print_keys(keys)
    else:
        say("No keys. `worker keys create` makes one.")


def revoke(name: KeyName) -> None:
    """Revoke a key for good. Servers refuse it within seconds."""
    with open_queue(load_settings()) as queue:
        revoke_key(queue, name, source="cli")
    say(f"Revoked {name}.")
