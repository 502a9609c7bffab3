"""Notifies systemd, for a service of Type=notify: sd_notify(3), one datagram for each message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from worker.engine.events import EVENTS, sentence
from worker.engine.progress import RunStats
from worker.terminal import printable


class Systemd:
    """A Progress that reports to systemd when the worker is ready and what it does, if systemd runs
    it.

    Only `pulse`, called by the thread of the run, feeds the watchdog: so a thread that hangs is
    noticed.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._every = _watchdog_seconds(environment) / 2
        self._fed_at = float("-inf")

    def update(self, stats: RunStats) -> None:
        self.pulse()

    def pulse(self) -> None:
        now = time.monotonic()
        if self._every and now >= self._fed_at + self._every:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def event(self, name: str, **fields: object) -> None:
        if name == "worker_started":
            self._send("READY=1")
        if name == "worker_stopped" or fields.get("state") == "stopping":
            self._send("STOPPING=1")
        if name == "state_changed" or EVENTS[name][0] != "debug":
            # a line break would begin another message
            self._send("STATUS=" + printable(" ".join(sentence(name, fields).split())))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, suppress(OSError):
            systemd.setblocking(False)  # never wait for a receiver that is gone or slow
            systemd.sendto(message.encode(), self._address)


def _address(given: str) -> str:
    return "\0" + given[1:] if given.startswith("@") else given


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Return the watchdog interval of systemd. 0: it has none, or it is for another process."""
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID")
    is_ours = pid in (None, "", str(os.getpid()))
    return int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0
