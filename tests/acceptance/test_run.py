"""`worker run` and the commands that steer it, as processes."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from tests import conftest
from tests.acceptance.conftest import Start, fill, refused, statuses
from tests.conftest import Database, Worker, rows, value

TIMEOUT = 30.0  # seconds
LATER = "It also applies to workers that start later."
eventually = partial(conftest.eventually, within=TIMEOUT)


def states(db: Database) -> list[str]:
    return [state for (state,) in rows(db, "select state from embedding_workers order by 1")]


def events(log: str) -> list[str]:
    return [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]


def test_it_embeds_what_comes_and_ends_well_when_asked_to(
    notes: Database, start: Start, with_openai: dict[str, str]
) -> None:
    process = start("run", **with_openai, WORKER_LOG_FORMAT="json", WORKER_LOG_LEVEL="debug")
    eventually(lambda: states(notes) == ["waiting"])
    for count in (3, 6):
        notes.execute(
            "insert into notes select i, 'text' from generate_series(%s::int, %s::int) i",
            [
                count - 2,
                count,
            ],
        )
        eventually(lambda count=count: statuses(notes) == {"completed": count})  # type: ignore[misc]
    process.send_signal(signal.SIGTERM)
    stdout, log = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stdout) == (0, "")
    assert all(line.startswith("{") for line in log.splitlines())
    told = events(log)
    assert (told[0], told[-1]) == ("worker_started", "worker_stopped")
    assert told.count("batch_done") >= 2
    assert states(notes) == []


def test_two_are_paused_put_to_sleep_and_woken_by_a_third(
    notes: Database, start: Start, worker: Worker, with_openai: dict[str, str]
) -> None:
    for _ in range(2):
        start("run", **with_openai)
    eventually(lambda: states(notes) == ["waiting", "waiting"])
    assert worker("pause").stdout == f"Pause sent to 2 workers. {LATER}\n"
    eventually(lambda: states(notes) == ["paused", "paused"])
    fill(notes, 20)
    assert statuses(notes) == {"pending": 20}
    assert worker("sleep").stdout == f"Sleep sent to 2 workers. {LATER}\n"
    eventually(lambda: states(notes) == ["asleep", "asleep"])
    assert statuses(notes) == {"pending": 20}
    one = value(notes, "select min(worker) from embedding_workers")
    assert worker("wake", "--worker", one).stdout == f"Resume sent to {one}.\n"
    eventually(lambda: statuses(notes) == {"completed": 20})
    eventually(lambda: states(notes) == ["asleep", "waiting"])
    assert worker("resume").stdout == f"Resume sent to 2 workers. {LATER}\n"
    eventually(lambda: states(notes) == ["waiting", "waiting"])


def test_where_it_may_not_run_it_says_so(notes: Database, worker: Worker) -> None:
    result = worker("run", ENABLE_BACKGROUND_EMBEDDING="false")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        "ENABLE_BACKGROUND_EMBEDDING is false: `worker run` embeds nothing.",
        "hint: `worker process` embeds all due jobs once.",
    ]


def test_a_model_that_cannot_be_opened_is_told_of_at_once(notes: Database, worker: Worker) -> None:
    cause, _ = refused(worker("run", EMBEDDING_MODEL="nobody:knows"), 2)
    assert "nobody" in cause


def test_nobody_of_that_name(notes: Database, worker: Worker) -> None:
    cause, hint = refused(worker("pause", "--worker", "nobody"), 2)
    assert cause == "there is no worker nobody"
    assert "worker status" in hint


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_metrics_are_served_while_it_runs(
    notes: Database, start: Start, with_openai: dict[str, str], port: int
) -> None:
    fill(notes, 7)
    start("run", "--metrics-port", str(port), **with_openai)
    eventually(lambda: statuses(notes) == {"completed": 7} and states(notes) == ["waiting"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'embedding_worker_jobs_total{outcome="completed"} 7.0' in metrics
    assert 'embedding_worker_state{state="waiting"} 1.0' in metrics


def test_a_port_that_is_taken(notes: Database, worker: Worker, with_openai: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cause, hint = refused(worker("run", "--metrics-port", port, **with_openai), 2)
    assert port in cause
    assert "WORKER_METRICS_PORT" in hint


def test_people_are_told_by_a_command(
    notes: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    fill(notes, 10)
    told = tmp_path / "told.json"
    result = worker("process", "--until", "50%", "--notify-command", f"cat > {told}", **with_openai)
    assert result.returncode == 0, result.stderr
    notice = json.loads(told.read_text())
    assert notice["event"] == "target_reached"
    assert notice["fields"] == {"percent": 50.0, "wanted": 50.0}
    assert re.match(r".+: 50\.0% of the rows have their vector", notice["text"])


def test_systemd_is_told_when_it_is_ready(
    notes: Database, start: Start, with_openai: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = str(tmp_path / "notify")
        systemd.bind(address)
        systemd.settimeout(TIMEOUT)
        process = start("run", **with_openai, NOTIFY_SOCKET=address, WATCHDOG_USEC="1000000")
        heard: list[str] = []
        while not {"READY=1", "WATCHDOG=1"} <= set(heard):
            heard.append(systemd.recv(4096).decode())
        process.terminate()
        while heard[-1] != "STOPPING=1":
            heard.append(systemd.recv(4096).decode())
    assert process.wait(TIMEOUT) == 0
