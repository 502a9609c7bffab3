"""What the doctor tells of an address, and of the failure to connect."""

from __future__ import annotations

import socket

import pytest

from worker.doctor.address import Network, inspect_address
from worker.doctor.connection import explain_failure
from worker.errors import SchemaError, SettingsError, Unreachable, WorkerError
from worker.queue import Finding

DIRECT = "postgresql://postgres:hunter2@db.abcdefghijklmnopqrst.supabase.co:5432/postgres"
POOLER = "postgresql://postgres.abcd:hunter2@aws-0-eu-central-1.pooler.supabase.com"


class World(Network):
    """A network in which every host has addresses of the same families."""

    def __init__(self, *families: int, ipv6: bool = False) -> None:
        self._families = set(families)
        self._ipv6 = ipv6

    def families(self, host: str) -> set[int]:
        return self._families

    def has_ipv6(self) -> bool:
        return self._ipv6


IPV4 = World(socket.AF_INET)


def found(url: str, network: Network = IPV4) -> dict[str, Finding]:
    findings = list(inspect_address(url, network))
    assert all("hunter2" not in repr(finding) for finding in findings)
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize(
    "url",
    [
        DIRECT,
        f"{POOLER}:5432/postgres",
        f"{POOLER}/postgres?sslmode=verify-full",
        "postgresql://u:hunter2@database.example.com/d?sslmode=disable",  # a network of one's own
        "postgresql://u@/d?host=/var/run/postgresql",
        "postgresql://u@one:1,two:2/d",
        "postgresql:///d",
    ],
)
def test_of_an_address_that_is_fine_nothing_is_said(url: str) -> None:
    assert found(url) == {}


def test_a_pooler_in_transaction_mode_is_fine_and_worth_saying() -> None:
    assert found(f"{POOLER}:6543/postgres")["transaction_pooler"].level == "note"


def test_a_user_that_does_not_name_its_project_is_no_user_of_the_pooler() -> None:
    finding = found(f"{POOLER}:5432/postgres".replace("postgres.abcd", "postgres"))["pooler_user"]
    assert finding.level == "problem"
    assert "postgres.PROJECT" in str(finding.hint)


def test_a_host_that_has_only_ipv6_is_told_where_there_is_no_way_to_one() -> None:
    finding = found(DIRECT, World(socket.AF_INET6))["ipv6_only"]
    assert finding.level == "problem"
    assert "session pooler" in str(finding.hint)
    assert found(DIRECT, World(socket.AF_INET6, ipv6=True)) == {}
    assert found(DIRECT, World(socket.AF_INET6, socket.AF_INET)) == {}
    assert found(DIRECT, World()) == {}


@pytest.mark.parametrize("mode", ["disable", "allow"])
def test_a_hosted_database_is_not_to_be_reached_in_the_clear(mode: str) -> None:
    assert found(f"{DIRECT}?sslmode={mode}")["unencrypted"].level == "problem"


def test_the_real_network_is_asked_without_anything_being_sent() -> None:
    assert socket.AF_INET in Network().families("127.0.0.1")
    assert Network().families("no-such-host.invalid") == set()
    assert Network().has_ipv6() in (True, False)


@pytest.mark.parametrize(
    ("problem", "check"),
    [
        (SchemaError("missing", "migrate"), "schema"),
        (Unreachable("connection refused", "check"), "connection"),
        (Unreachable("no pg_hba.conf entry for host, no encryption", "check"), "ssl_required"),
        (Unreachable("FATAL: SSL connection is required", "check"), "ssl_required"),
        (SettingsError("the Data API refuses the key", "which key"), "access"),
    ],
)
def test_what_kept_it_from_looking_is_a_problem_of_its_own(
    problem: WorkerError, check: str
) -> None:
    finding = explain_failure(problem)
    assert (finding.level, finding.check, finding.cause) == ("problem", check, problem.cause)
    assert finding.hint
