"""The probe of a container: it finds a run whose main loop is stuck."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event

import pytest

from tests.conftest import Database, eventually, value
from tests.integration.reembeddings import openai_settings as openai_settings
from worker.observers import health
from worker.operations.serving import run_service
from worker.queue import AdminQueue
from worker.settings import Settings

SOON = 30.0  # seconds

HELD = """
create function public.held(body text) returns text immutable language plpgsql as $$
begin
    while exists (select from pg_locks where locktype = 'advisory' and objid = 7) loop
        perform pg_sleep(0.05);
    end loop;
    return body;
end $$
"""


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(queue: AdminQueue, settings: Settings, port: int) -> Iterator[None]:
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_service, queue, settings, stop=stop, metrics_port=port)
        try:
            yield
        finally:
            stop.set()
            run.result(SOON)


def probed(port: int, path: str = "/healthz") -> tuple[int, str]:
    """The status and the text that a probe gets; 0: nothing answers yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()
    except OSError:
        return 0, ""


def test_a_loop_that_is_held_is_reported_until_it_turns_again(
    texts: Database,
    queue: AdminQueue,
    settings: Settings,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "LEAST", 0.0)
    settings = replace(settings, embedding_lease_seconds=2.0, worker_deep_sleep_after=1.0)
    texts.execute(HELD)
    texts.execute("update embedding_targets set source = 'public.held(body)'")
    with running(queue, settings, port):
        eventually(lambda: probed(port) == (200, "ok\n"), SOON)
        texts.execute("select pg_advisory_lock(7)")
        texts.execute("insert into docs values (1, 'text')")
        eventually(lambda: probed(port)[0] == 503, SOON)
        _, reason = probed(port)
        assert reason.startswith("the main loop has not turned for ")
        assert reason.count("\n") == 1
        assert probed(port, "/metrics")[0] == 200
        texts.execute("select pg_advisory_unlock(7)")
        eventually(lambda: probed(port) == (200, "ok\n"), SOON)
        done = "select count(*) from embedding_queue where status = 'completed'"
        eventually(lambda: value(texts, done) == 1, SOON)
