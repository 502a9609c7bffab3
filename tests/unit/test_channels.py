"""How what people are told gets to them: real commands, and a real server that fails or hangs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.http_server import answers, hang
from tests.inbox import Inbox, Said
from worker.observers import channels, notify
from worker.observers.channels import Command, NotDelivered, Notice, Webhook, open_channels
from worker.observers.notify import ENDED, MOST_WAITING, DeliveryThread

NOTICE = Notice(
    text="h:1:abc: openai cannot be used: <!channel> & more",
    event="provider_stopped",
    fields={"provider": "openai", "cause": "<!channel> & more", "hint": None},
    worker="h:1:abc",
    time="2026-11-27T01:04:29Z",
)
DOCUMENT = {
    "text": NOTICE.text,
    "event": "provider_stopped",
    "fields": dict(NOTICE.fields),
    "worker": "h:1:abc",
    "time": "2026-11-27T01:04:29Z",
}


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A server of which nothing is waited for between two tries."""
    monkeypatch.setattr(channels, "FIRST_WAIT", 0.0)
    with Inbox() as inbox:
        yield inbox


# A command


def test_a_command_reads_the_event_as_json(tmp_path: Path) -> None:
    Command(f"cat > '{tmp_path}/told'").deliver(NOTICE)
    assert json.loads((tmp_path / "told").read_text()) == DOCUMENT


@pytest.mark.parametrize("length", [1, 1_000_000], ids=["short", "more than a pipe holds"])
def test_a_command_need_not_read(tmp_path: Path, length: int) -> None:
    notice = replace(NOTICE, text="x" * length)
    Command(f"exec <&-; echo it ran > '{tmp_path}/told'").deliver(notice)
    assert (tmp_path / "told").read_text() == "it ran\n"


def test_a_command_that_fails_is_told_of_by_its_last_words() -> None:
    with pytest.raises(NotDelivered) as problem:
        Command("seq 1000; echo no such  pager >&2; exit 3").deliver(NOTICE)
    assert str(problem.value).startswith("exit code 3: ")
    assert str(problem.value).endswith("999 1000 no such pager")
    assert len(str(problem.value)) < 400


def test_a_command_that_does_not_end_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "COMMAND_TIMEOUT", 0.5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(NotDelivered, match="did not end within"):
        Command(f"(echo begun; exec sleep 600) > '{pipe}' & wait").deliver(NOTICE)
    assert os.read(reading, 100) == b"begun\n"
    wait_until(lambda: _has_ended(reading))
    os.close(reading)


def _has_ended(reading: int) -> bool:
    """Whether nobody holds the other end of a pipe."""
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


def test_a_command_is_not_handed_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/hunter2")
    monkeypatch.setenv("PAGER_TOKEN", "theirs")
    Command(f"env > '{tmp_path}/env'").deliver(NOTICE)
    environment = (tmp_path / "env").read_text()
    assert "PAGER_TOKEN=theirs" in environment
    assert "hunter2" not in environment


# A webhook


def test_a_webhook_gets_the_event_with_a_text_that_calls_nobody(inbox: Inbox) -> None:
    Webhook(inbox.url).deliver(NOTICE)
    [request] = inbox.requests
    assert request.path == "/services/hunter2"
    assert request.headers["content-type"] == "application/json"
    assert request.body == DOCUMENT | {
        "text": "h:1:abc: openai cannot be used: &lt;!channel&gt; &amp; more"
    }


def test_a_server_that_fails_twice_is_tried_again(inbox: Inbox) -> None:
    inbox.faults.extend([answers(500), answers(429)])
    Webhook(inbox.url).deliver(NOTICE)
    assert len(inbox.requests) == 3


@pytest.mark.parametrize(("status", "tries"), [(503, channels.TRIES), (404, 1), (302, 1)])
def test_a_server_that_refuses_is_given_up(inbox: Inbox, status: int, tries: int) -> None:
    inbox.faults.extend([answers(status, location=inbox.root)] * tries)
    with pytest.raises(NotDelivered) as problem:
        Webhook(inbox.url).deliver(NOTICE)
    assert str(problem.value) == f"it answered with status {status}"
    assert len(inbox.requests) == tries


def test_a_server_that_hangs_is_given_up(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(channels, "TRIES", 2)
    inbox.faults.extend([hang, hang])
    with pytest.raises(NotDelivered, match="no answer within"):
        Webhook(inbox.url).deliver(NOTICE)
    assert len(inbox.requests) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@127.0.0.1:1/hunter2",
        "http://127.0.0.1:1/hunter2?hunter2",
        "https://hunter2.invalid/hunter2",
        "http://[hunter2]/",
        "http://" + "a" * 70 + ".hunter2/",
        "http://127.0.0.1/\nhunter2",
    ],
)
def test_no_cause_repeats_the_address(
    url: str, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    said = Said()
    delivery_thread = DeliveryThread(Webhook(url), said)
    delivery_thread.start()
    delivery_thread.take(NOTICE)
    [(event, fields)] = said.wait_for(1)
    delivery_thread.close(time.monotonic() + 20)
    assert event == "notification_failed"
    assert "hunter2" not in str(fields)
    assert "hunter2" not in repr(delivery_thread)
    assert "hunter2" not in caplog.text


def test_channels_are_those_that_are_wanted() -> None:
    assert open_channels(None, None) == []
    assert [c.name for c in open_channels("https://hooks.example", "true")] == [
        "command",
        "webhook",
    ]


# What carries to them


def wait_until(condition: Callable[[], bool]) -> None:
    late = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < late
        time.sleep(0.01)


def test_who_has_something_told_never_waits_for_it(inbox: Inbox) -> None:
    inbox.faults.append(hang)
    said = Said()
    delivery_thread = DeliveryThread(Webhook(inbox.url), said)
    delivery_thread.start()
    for _ in range(MOST_WAITING + 2):
        delivery_thread.take(NOTICE)
    assert said.events
    assert {fields["cause"] for _, fields in said.events} == {
        f"{MOST_WAITING} notifications are waiting"
    }
    delivery_thread.close(time.monotonic())


def test_what_has_not_arrived_at_the_end_is_given_up_and_said_to_be(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "ABANDON_TIMEOUT", 0.1)
    inbox.faults.append(hang)
    said = Said()
    delivery_thread = DeliveryThread(Webhook(inbox.url), said)
    delivery_thread.start()
    delivery_thread.take(NOTICE)
    delivery_thread.take(NOTICE)
    wait_until(lambda: bool(inbox.requests))
    delivery_thread.close(time.monotonic())
    assert [(name, fields["cause"]) for name, fields in said.events] == [
        ("notification_failed", ENDED)
    ] * 2


def test_a_command_that_is_under_way_at_the_end_is_ended(tmp_path: Path) -> None:
    said = Said()
    delivery_thread = DeliveryThread(Command(f"touch '{tmp_path}/began'; sleep 600"), said)
    delivery_thread.start()
    delivery_thread.take(NOTICE)
    wait_until((tmp_path / "began").exists)
    delivery_thread.close(time.monotonic())
    assert [fields["cause"] for _, fields in said.wait_for(1)] == [ENDED]


def test_what_is_under_way_at_the_end_has_time_to_arrive(inbox: Inbox) -> None:
    inbox.faults.extend([answers(500), answers(500)])
    inbox.latency = 0.1
    said = Said()
    delivery_thread = DeliveryThread(Webhook(inbox.url), said)
    delivery_thread.start()
    delivery_thread.take(NOTICE)
    delivery_thread.close(time.monotonic() + 20)
    assert [(name, fields["channel"]) for name, fields in said.events] == [
        ("notification_sent", "webhook")
    ]
