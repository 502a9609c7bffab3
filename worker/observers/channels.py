"""The channels that notify people of an event: a command, and an address that takes JSON."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from tempfile import TemporaryFile
from threading import Event
from typing import IO, Any, Protocol

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from worker.errors import SettingsError
from worker.proxies import direct_mounts, usable_proxies
from worker.settings import Settings
from worker.terminal import as_json

COMMAND_TIMEOUT = 30.0  # seconds
ANSWER_TIMEOUT = 10.0  # seconds
TRIES = 5
FIRST_WAIT = 2.0  # seconds at most, until the second try; the waits double
MOST_OUTPUT = 300  # characters of the end of the output of a command

# A command is another program: it must not get our keys, nor our connection to systemd.
_OURS_ALONE = {setting.name.upper() for setting in fields(Settings) if not setting.repr} | {
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification: an event with its fields, its sentence, the worker and the time (UTC)."""

    text: str
    event: str
    fields: Mapping[str, object]
    worker: str
    time: str

    def as_json(self, text: str | None = None) -> bytes:
        """Return one JSON document, with another `text` if one is given."""
        document = asdict(self) | ({"text": text} if text else {})
        return as_json(document).encode()


class NotDelivered(Exception):
    """Why a notification was not delivered, without secrets."""


class _MayWorkLater(NotDelivered):
    """A retry may succeed."""


class Channel(Protocol):
    """A way to notify people. Used by one thread, apart from `abandon`."""

    name: str

    def deliver(self, notice: Notice) -> None:
        """Deliver a notification. Raises NotDelivered."""

    def abandon(self) -> None:
        """End a delivery in progress, and do not retry."""


class Command:
    """Runs `command` by the shell for each notice, with the notice as a line of JSON on its stdin.

    It has COMMAND_TIMEOUT seconds, and none of our secrets in its environment. If it fails, the end
    of its output is reported.
    """

    name = "command"

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def deliver(self, notice: Notice) -> None:
        with TemporaryFile() as output, self._started(output) as process:
            self._process = process
            try:
                process.communicate(notice.as_json() + b"\n", COMMAND_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.abandon()
                raise NotDelivered(f"it did not end within {COMMAND_TIMEOUT:.0f} s") from None
            if process.returncode:
                raise NotDelivered(f"exit code {process.returncode}: {_end_of(output)}")

    def _started(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name not in _OURS_ALONE},
            start_new_session=True,  # a process group: Ctrl-C does not reach it, and it ends as one
        )

    def abandon(self) -> None:
        if self._process and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Webhook:
    """Posts each notice to `url`, as JSON whose `text` is what Slack shows.

    Tries up to TRIES times if that may help. The address is a secret: no cause repeats it, and
    redirects are not followed.
    """

    name = "webhook"

    def __init__(self, url: str) -> None:
        self._url = url
        self._abandoned = Event()

    def deliver(self, notice: Notice) -> None:
        body = notice.as_json(_as_slack_text(notice.text))
        retrying = Retrying(
            retry=retry_if_exception_type(_MayWorkLater),
            wait=wait_random_exponential(FIRST_WAIT),
            stop=stop_after_attempt(TRIES) | stop_when_event_set(self._abandoned),
            sleep=sleep_using_event(self._abandoned),
            reraise=True,
        )
        retrying(self._post, body)

    def abandon(self) -> None:
        self._abandoned.set()

    def _post(self, body: bytes) -> None:
        try:
            status = self._send(body)
        except httpx.TimeoutException:
            raise _MayWorkLater(f"no answer within {ANSWER_TIMEOUT:.0f} s") from None
        except SettingsError as problem:
            raise NotDelivered(problem.cause) from None
        except Exception as problem:  # also of an address that the client cannot read
            # only by its class: its message may repeat the address
            raise _MayWorkLater(f"it cannot be reached ({type(problem).__name__})") from None
        if status in (408, 429) or status >= 500:
            raise _MayWorkLater(f"it answered with status {status}")
        if not 200 <= status < 300:
            raise NotDelivered(f"it answered with status {status}")

    def _send(self, body: bytes) -> int:
        """Send `body` and return the status of the answer, which is not read any further."""
        with usable_proxies():
            client = httpx.Client(
                timeout=ANSWER_TIMEOUT, follow_redirects=False, mounts=direct_mounts(self._url)
            )
        headers = {"content-type": "application/json"}
        with (
            client,
            client.stream("POST", self._url, content=body, headers=headers) as response,
        ):
            return response.status_code


def open_channels(webhook_url: str | None, command: str | None) -> list[Channel]:
    """Return the channels that are configured."""
    channels: list[Channel] = []
    if command:
        channels.append(Command(command))
    if webhook_url:
        channels.append(Webhook(webhook_url))
    return channels


def _as_slack_text(text: str) -> str:
    """Escape a text, so that it makes no link and notifies no whole channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _end_of(output: IO[Any]) -> str:
    """Return the end of a file."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(size - 4 * MOST_OUTPUT, 0))
    return " ".join(output.read().decode(errors="replace").split())[-MOST_OUTPUT:] or "no output"
