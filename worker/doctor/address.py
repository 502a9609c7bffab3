"""Checks of the connection string, before it is used."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from worker.queue import Finding

TRANSACTION_PORT = 6543  # of Supabase's pooler; 5432 is its session mode
POOLER = re.compile(r".*\.pooler\.supabase\.com")
DIRECT = re.compile(r"db\.[a-z0-9]+\.supabase\.(co|com)")
SESSION_POOLER = (
    "Use the session pooler, which has an IPv4 address: Connect, Session pooler, in the dashboard."
)


class Network:
    """Looks up addresses, and whether this host can reach them."""

    def families(self, host: str) -> set[int]:
        """The families of the addresses of a host (AF_INET, AF_INET6). Empty: it has none."""
        try:
            return {int(found[0]) for found in socket.getaddrinfo(host, None)}
        except OSError:
            return set()

    def has_ipv6(self) -> bool:
        """Whether this host has a route to IPv6 addresses. Sends nothing."""
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                probe.connect(
                    ("2001:db8::1", 9)
                )  # from the block that is reserved for documentation
        except OSError:
            return False
        return True


def inspect_address(url: str, network: Network) -> Iterator[Finding]:
    """Check a database URL. No finding contains its password."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.startswith("/") or not host:
        return  # a socket of this machine
    try:
        port = parts.port or 5432
    except ValueError:
        return  # several hosts, or not a number: the connection reports it
    yield from _pooler(host, port, parts.username or "")
    if POOLER.fullmatch(host) or DIRECT.fullmatch(host):
        yield from _encryption(host, parse_qs(parts.query).get("sslmode", [""])[0])
    if network.families(host) == {socket.AF_INET6} and not network.has_ipv6():
        yield Finding(
            "problem",
            "ipv6_only",
            host,
            "it has only an IPv6 address, and this host has no IPv6 route",
            SESSION_POOLER,
        )


def _pooler(host: str, port: int, user: str) -> Iterator[Finding]:
    if port == TRANSACTION_PORT:
        yield Finding(
            "note",
            "transaction_pooler",
            f"{host}:{port}",
            "it is a pooler in transaction mode: it works, but passes on no notifications",
            "Idle workers poll instead; port 5432 is the session mode.",
        )
    if POOLER.fullmatch(host) and "." not in user:
        yield Finding(
            "problem",
            "pooler_user",
            user or "(no user)",
            "the pooler serves many projects, and this user does not say which",
            "Write postgres.PROJECT in place of postgres: Connect, in the dashboard, has the URL.",
        )


def _encryption(host: str, mode: str) -> Iterator[Finding]:
    if mode in ("disable", "allow"):
        yield Finding(
            "problem",
            "unencrypted",
            host,
            f"sslmode={mode} sends the password and the texts over the network unencrypted",
            "Write sslmode=require, or remove it.",
        )
