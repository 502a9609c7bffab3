"""The stand-ins keep to what they say of themselves: whoever is measured against them is."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any
from urllib.error import HTTPError

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.batch_server import BatchServer
from tests.openai_server import OpenAIServer
from tests.tcp_proxy import TcpProxy
from worker.embedders.batch_api import BatchApi, BatchStatus
from worker.embedders.registry import open_batch_api
from worker.settings import Settings


def ask(server: OpenAIServer) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer to one text."""
    request = urllib.request.Request(
        f"{server.base_url}/embeddings",
        json.dumps({"model": "text-embedding-3-small", "input": ["a text"]}).encode(),
        {"authorization": f"Bearer {server.api_key}", "connection": "close"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except HTTPError as refusal:
        with refusal:
            return refusal.code, dict(refusal.headers), json.loads(refusal.read())


def milliseconds(duration: str) -> float:
    return float(duration.removesuffix("ms"))


def test_an_allowance_is_used_up_and_comes_back_at_an_even_pace() -> None:
    with OpenAIServer(rpm=60, burst=3) as server:
        assert [ask(server)[0] for _ in range(4)] == [200, 200, 200, 429]
        status, headers, body = ask(server)
        assert status == 429
        wait = milliseconds(headers["retry-after-ms"])
        assert 0 < wait <= 1001
        assert f"Limit 60. Please try again in {wait:.0f}ms." in body["error"]["message"]
        assert body["error"]["code"] == "rate_limit_exceeded"
        time.sleep(wait / 1000)
        assert ask(server)[0] == 200
        assert (len(server.accepted), len(server.refused)) == (4, 2)
        assert sorted(server.accepted) == server.accepted


def test_the_headers_tell_the_truth_of_the_allowance() -> None:
    with OpenAIServer(rpm=60) as server:  # a burst of six, and one a second
        _, headers, _ = ask(server)
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "5"
        assert milliseconds(headers["x-ratelimit-reset-requests"]) == pytest.approx(1000, abs=200)


def test_a_silent_server_says_nothing_of_its_limits() -> None:
    with OpenAIServer(rpm=60, burst=1, silent=True) as server:
        answers = [ask(server), ask(server)]
    assert [status for status, _, _ in answers] == [200, 429]
    for _, headers, body in answers:
        assert not [name for name in headers if "ratelimit" in name or "retry" in name]
        assert "try again" not in str(body)


def test_an_allowance_can_be_changed_while_the_server_runs() -> None:
    with OpenAIServer(rpm=60, burst=1) as server:
        assert [ask(server)[0] for _ in range(2)] == [200, 429]
        server.rpm = None
        assert [ask(server)[0] for _ in range(5)] == [200] * 5
        server.rpm, server.burst = 60, 2
        assert [ask(server)[0] for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("database_is_first", [False, True])
def test_a_proxy_hangs_up_until_its_clients_have_closed_and_lets_nobody_in_meanwhile(
    database_is_first: bool,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database, ThreadPoolExecutor() as pool:
        url = f"postgresql://me@127.0.0.1:{database.getsockname()[1]}/any"
        with TcpProxy(url) as proxy, connected(proxy) as first, database.accept()[0] as served:
            if database_is_first:
                served.close()
                assert first.recv(1) == b""
            hung_up, over = Event(), Event()
            hanging_up = pool.submit(hang_up, proxy, hung_up, over)
            assert first.recv(1) == b""
            assert not hung_up.is_set()
            first.close()
            assert hung_up.wait(10)
            with connected(proxy) as second:
                second.sendall(b"hello")
                database.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    database.accept()
                over.set()
                hanging_up.result(10)
                database.settimeout(10)
                with database.accept()[0] as served:
                    assert served.recv(5) == b"hello"


def connected(proxy: TcpProxy) -> socket.socket:
    target = conninfo_to_dict(proxy.url)
    return socket.create_connection((str(target["host"]), int(str(target["port"]))))


def hang_up(proxy: TcpProxy, hung_up: Event, over: Event) -> None:
    with proxy.hung_up():
        hung_up.set()
        assert over.wait(10)


def batch_of(server: BatchServer, texts: int) -> tuple[BatchApi, BatchStatus]:
    settings = Settings(openai_api_key=server.api_key, openai_base_url=server.base_url)
    api = open_batch_api("openai:text-embedding-3-small", 8, settings)
    file = io.BytesIO(b"".join(api.line(str(place), f"text {place}") for place in range(texts)))
    return api, api.create(api.upload(file, "a token"), "a token")


def test_a_batch_is_processed_once_however_many_look_at_it() -> None:
    with BatchServer() as server, ThreadPoolExecutor(8) as threads:
        api, batch = batch_of(server, 500)
        with closing(api):
            list(threads.map(lambda _: api.status(batch.id), range(16)))
            assert len(server.paid) == 500
            assert server.report() == {
                "texts": 500,
                "paid_again": 0,
                "paid_in_full": 0,
                "left_over": list(server.files),
                "batches": {"completed": 1},
            }
            assert len(server.files) == 2


def test_a_batch_takes_as_many_looks_as_it_should() -> None:
    with BatchServer() as server:
        server.looks = 3
        api, batch = batch_of(server, 1)
        with closing(api):
            states = [status.state for _ in range(4) if (status := api.status(batch.id))]
            assert states == ["in_progress", "in_progress", "completed", "completed"]
            server.forget(batch.id)
            assert api.status(batch.id) is None


def test_texts_at_the_full_price_are_counted_apart() -> None:
    with BatchServer() as server:
        assert ask(server)[0] == 200
        assert (server.paid_in_full, dict(server.paid)) == ({"a text": 1}, {})


def test_the_batch_api_can_be_served_by_a_program() -> None:
    command = [sys.executable, "-m", "tests.batch_server", "--looks", "2", "--token-limit", "9"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        address = json.loads(program.stdout.readline())
        with urllib.request.urlopen(f"{address['root']}/report", timeout=5) as answer:
            assert json.loads(answer.read())["left_over"] == []
        program.terminate()
        assert program.wait(timeout=30) == 0
