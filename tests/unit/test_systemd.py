"""What systemd hears, on a socket like its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from worker.engine.events import sentence
from worker.engine.progress import RunStats
from worker.observers.systemd import Systemd


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens at: a socket in the file system, or one with a name alone."""
    abstract = f"\0embedding-worker-{uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(abstract if request.param == "abstract" else str(tmp_path / "notify"))
        listener.settimeout(20)
        yield listener


def environment(listener: socket.socket, **more: str) -> dict[str, str]:
    name = listener.getsockname()
    address = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, **more}


def heard(listener: socket.socket) -> list[str]:
    """All that was said so far."""
    listener.setblocking(False)
    messages = []
    try:
        while True:
            messages.append(listener.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_systemd_hears_of_the_start_what_is_done_and_the_end(listener: socket.socket) -> None:
    systemd = Systemd(environment(listener))
    started: dict[str, object] = {"worker": "w", "host": "h", "pid": 1, "model": "a:b"}
    waiting: dict[str, object] = {"state": "waiting", "cause": "nothing is due"}
    stopped: dict[str, object] = {"worker": "w", "seconds": 1.0, "completed": 1, "failed": 0}
    systemd.event("worker_started", **started)
    systemd.event("batch_done", table="docs", column="embedding", jobs=1, seconds=0.1)
    systemd.event("state_changed", **waiting)
    systemd.event("database_lost", cause="gone\nMAINPID=1")
    systemd.event("worker_stopped", **stopped)
    assert heard(listener) == [
        "READY=1",
        "STATUS=" + sentence("worker_started", started),
        "STATUS=" + sentence("state_changed", waiting),
        "STATUS=" + sentence("database_lost", {"cause": "gone MAINPID=1"}),
        "STOPPING=1",
        "STATUS=" + sentence("worker_stopped", stopped),
    ]


def test_the_watchdog_is_fed_by_the_run_and_not_more_often_than_it_wants(
    listener: socket.socket,
) -> None:
    systemd = Systemd(environment(listener, WATCHDOG_USEC="3600000000"))
    for _ in range(3):
        systemd.pulse()
        systemd.update(RunStats())
    assert heard(listener) == ["WATCHDOG=1"]


def test_the_watchdog_is_fed_again_when_half_of_its_time_is_over(listener: socket.socket) -> None:
    systemd = Systemd(environment(listener, WATCHDOG_USEC="2"))
    systemd.pulse()
    systemd.pulse()
    assert heard(listener) == ["WATCHDOG=1"] * 2


@pytest.mark.parametrize(
    ("given", "fed"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "lots"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
    ],
)
def test_a_watchdog_of_nobody_or_another_is_not_fed(
    listener: socket.socket, given: dict[str, str], fed: bool
) -> None:
    Systemd(environment(listener, **given)).pulse()
    assert bool(heard(listener)) is fed


def test_without_systemd_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *given: opened.append(given))
    systemd = Systemd({"WATCHDOG_USEC": "1"})
    systemd.event("worker_started", worker="w", host="h", pid=1, model="a:b")
    systemd.pulse()
    assert opened == []


def test_a_systemd_that_is_away_is_no_error_and_hears_what_comes_when_it_is_back(
    tmp_path: Path,
) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3600000000"})
    systemd.event("worker_started", worker="w", host="h", pid=1, model="a:b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        assert heard(listener) == []
        systemd.pulse()
        assert heard(listener) == ["WATCHDOG=1"]


def test_a_systemd_that_does_not_read_holds_nothing_up(listener: socket.socket) -> None:
    systemd = Systemd(environment(listener))
    cause = "x" * 1000
    for _ in range(5000):
        systemd.event("database_lost", cause=cause)
    messages = heard(listener)
    assert 0 < len(messages) < 5000, "what does not fit is left out"
    assert set(messages) == {"STATUS=" + sentence("database_lost", {"cause": cause})}, "and whole"
    systemd.event("database_lost", cause="later")
    assert heard(listener) == ["STATUS=" + sentence("database_lost", {"cause": "later"})]
