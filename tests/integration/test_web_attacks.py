"""What is tried against the dashboard and the API by those who mean harm, and by the clumsy."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import httpx
import psycopg
import pytest

from tests.conftest import Database
from tests.web import ADMIN_TOKEN, Web, served_web
from worker.settings import Settings
from worker.web import access, live, protocol
from worker.web.access import ATTEMPTS
from worker.web.server import served

DIGITS = "9" * 5000  # more than Python turns into a number


@pytest.fixture(scope="module")
def settings(shared_url: str) -> Settings:
    return Settings(database_url=shared_url)


@pytest.fixture(scope="module")
def db(shared_url: str) -> Iterator[Database]:
    with psycopg.connect(shared_url, autocommit=True) as db:
        db.execute("create table docs (id bigint primary key, body text, embedding vector(3))")
        db.execute("select watch_embeddings('docs', 'body', 'embedding', language => 'english')")
        db.execute("create table books (id bigint primary key, body text)")
        db.execute("select watch_embeddings('books', 'body', 'v', dimensions => 3, chunks => true)")
        yield db


@pytest.fixture(scope="module")
def web(settings: Settings, db: Database) -> Iterator[Web]:
    with served_web(settings) as web:
        yield web


def sent(web: Web, data: str, *then: str, taken_after: float = 0) -> str:
    """What comes back for bytes, and for more of them after pauses, until the server closes.

    `taken_after`: seconds that pass once the answer has begun.
    """
    url = httpx.URL(web.url)
    data = data.replace("HERE", f"127.0.0.1:{url.port}")
    with socket.create_connection(("127.0.0.1", url.port or 0), timeout=10) as connection:
        connection.sendall(data.encode())
        for more in then:
            time.sleep(0.1)
            try:
                connection.sendall(more.encode())
            except OSError:  # it has closed
                break
        answer = b""
        try:
            answer = connection.recv(1)
            time.sleep(taken_after)
            while got := connection.recv(65536):
                answer += got
        except ConnectionResetError:
            pass
        return answer.decode()


# -- hostile addresses


@pytest.mark.parametrize(
    "next", ["//evil.example/", "//evil.example/jobs", "/\\evil.example/", "//[", f"/jobs/{DIGITS}"]
)
def test_a_login_does_not_lead_to_another_host(web: Web, next: str) -> None:
    found = httpx.post(f"{web.url}/login", data={"token": ADMIN_TOKEN, "next": next})
    assert (found.status_code, found.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/live?page=//[", 404),
        (f"/live?page=/jobs/{DIGITS}", 404),
        (f"/jobs/{DIGITS}", 414),
        (f"/reembeddings/{DIGITS}", 414),
        ("/jobs/", 404),  # no redirect names a host
        ('/documents/passages?target=["books","v"]&record=1&after=2147483648', 400),
    ],
)
def test_addresses_that_mean_nothing_are_refused(web: Web, path: str, status: int) -> None:
    assert web.as_admin.get(path).status_code == status


def test_a_number_out_of_range_is_refused(web: Web) -> None:
    assert web.post(
        "/goals/set", {"target": '["docs","embedding"]', "percent": "1e-300"}
    ).is_client_error


@pytest.mark.parametrize("path", ["/worker", "/worker?table=docs"])
def test_the_public_url_is_served_as_it_is_printed(settings: Settings, path: str) -> None:
    public = replace(settings, worker_web_url="https://ops.example.com/worker")
    with served(public, "127.0.0.1:0") as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        found = httpx.get(url, headers={"host": "ops.example.com"})
        assert found.headers["location"].startswith("/worker/login?next=%2F")


# -- hostile pages, and those who lock others out


def test_a_page_of_another_site_neither_tries_tokens_nor_logs_in(web: Web) -> None:
    for token in [ADMIN_TOKEN, *["wrong"] * ATTEMPTS]:
        found = httpx.get(
            f"{web.url}/login", params={"token": token}, headers={"sec-fetch-site": "cross-site"}
        )
        assert found.status_code == 200
        assert "set-cookie" not in found.headers
    assert httpx.post(f"{web.url}/login", data={"token": ADMIN_TOKEN}).status_code == 303


def test_an_app_with_a_wrong_token_locks_no_person_out(settings: Settings) -> None:
    with served_web(settings) as web:
        answers = [
            httpx.get(f"{web.url}/status", headers={"authorization": "Bearer wrong"}).status_code
            for _ in range(ATTEMPTS + 1)
        ]
        assert answers == [401] * ATTEMPTS + [429]
        assert web.as_nobody.post("/login", data={"token": ADMIN_TOKEN}).status_code == 303


def test_who_logs_in_to_one_server_stays_logged_in_to_another_of_the_host(
    settings: Settings, web: Web
) -> None:
    """A browser has the cookies of a host for all its ports."""
    other = replace(settings, worker_web_token="another-token-of-an-admin")
    with served_web(other) as second, httpx.Client() as browser:
        browser.post(f"{web.url}/login", data={"token": ADMIN_TOKEN})
        browser.post(f"{second.url}/login", data={"token": "another-token-of-an-admin"})
        assert browser.get(f"{web.url}/").status_code == 200
        assert browser.get(f"{second.url}/").status_code == 200
        browser.post(f"{second.url}/logout", headers=second.of_a_browser)
        assert browser.get(f"{web.url}/").status_code == 200


# -- live updates


def watch(client: httpx.Client, opened: ExitStack, page: str) -> Iterator[str] | None:
    """Watch a page, until `opened` ends. None: there is no room."""
    stream = opened.enter_context(client.stream("GET", "/live", params={"page": page}))
    return stream.iter_lines() if stream.status_code == 200 else None


def said(lines: Iterator[str] | None) -> str:
    assert lines is not None, "there was no room"
    return next(line for line in lines if line.startswith("data:"))


def test_a_page_that_is_gone_does_not_end_the_updates_of_others(web: Web) -> None:
    with ExitStack() as opened:
        gone = watch(web.as_reader, opened, "/jobs/999999")
        assert said(gone) == "data: There is no such job."
        assert said(watch(web.as_admin, opened, "/")) == "data: <h1>Overview</h1>"
        assert said(watch(web.as_admin, opened, "/audit")) == "data: <h1>Audit</h1>"


def test_a_reader_who_opens_many_pages_leaves_admins_their_updates(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_TOPICS", 3)
    with ExitStack() as opened:
        of_readers = [watch(web.as_reader, opened, f"/?n={number}") for number in range(4)]
        assert [each is not None for each in of_readers] == [True, True, True, False]
        assert watch(web.as_reader, opened, "/?n=0"), "a page that is rendered anyway has room"
        assert said(watch(web.as_admin, opened, "/")) == "data: <h1>Overview</h1>"


def test_updates_end_with_the_session(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SESSION", 4)
    monkeypatch.setattr(live, "KEEP_ALIVE", 0.2)
    with httpx.Client(base_url=web.url) as client, ExitStack() as opened:
        client.post("/login", data={"token": ADMIN_TOKEN})
        lines = watch(client, opened, "/audit")
        assert said(lines) == "data: <h1>Audit</h1>"
        assert lines
        assert [line for line in lines if line.startswith("event:")] == []  # and it ends
        assert client.get("/live", params={"page": "/audit"}).status_code == 401


# -- hostile connections


def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_read(web: Web) -> None:
    head = "POST /login HTTP/1.1\r\nHost: HERE\r\nContent-Length: 4\r\n"
    behind = "0\r\n\r\nGET /login HTTP/1.1\r\nHost: HERE\r\n\r\n"
    answer = sent(web, f"{head}Transfer-Encoding: chunked\r\n\r\n{behind}")
    assert answer.startswith("HTTP/1.1 400")
    assert answer.count("HTTP/1.1") == 1


def test_a_body_that_goes_on_after_its_answer_is_ended(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LONGEST_HEAD", 0.5)
    head = "POST /static/app.css HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n"
    began = time.monotonic()
    sent(web, head, *["1\r\na\r\n"] * 100)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("path", ["/v1/embeddings", "/search", "/workers/all/pause", "/mcp"])
def test_nothing_of_a_body_is_read_before_who_sends_it_has_the_right(web: Web, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: HERE\r\nContent-Length: 8000000\r\nConnection: close\r\n"
    assert sent(web, f"{head}\r\n")[:12] in ("HTTP/1.1 401", "HTTP/1.1 303")


def test_a_login_reads_no_more_than_a_form(web: Web) -> None:
    head = "POST /login HTTP/1.1\r\nHost: HERE\r\nContent-Length: 8000000\r\nConnection: close\r\n"
    assert sent(web, f"{head}\r\n{'x' * 300_000}").startswith("HTTP/1.1 413")


def test_a_program_gets_json_for_every_refusal(web: Web) -> None:
    path = f"{web.url}/v1/embeddings"
    for found in (
        httpx.post(path, headers={"host": "evil.example"}),
        httpx.post(path, content=b" " * 9_000_000),
    ):
        assert found.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("value", ["NaN", "1e400", '"\\u0000"'])
def test_a_value_that_no_column_can_have_is_refused(web: Web, value: str) -> None:
    found = httpx.post(
        f"{web.url}/search",
        headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
        content=f'{{"query": "x", "table": "docs", "mode": "text", "filter": {{"body": {value}}}}}',
    )
    assert found.status_code == 400, found.text


def test_the_public_url_may_name_the_port_that_browsers_leave_out(settings: Settings) -> None:
    public = replace(
        settings, worker_web_url="https://ops.example.com:443", worker_web_token="t" * 16
    )
    with served(public, "127.0.0.1:0") as server:
        found = httpx.post(
            f"http://127.0.0.1:{server.port}/login",
            data={"token": "t" * 16},
            headers={"host": "ops.example.com", "origin": "https://ops.example.com"},
        )
        assert found.status_code == 303


def test_an_answer_that_nobody_takes_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LONGEST_READING", 0.5)
    body = json.dumps({"model": "local:wordllama-256", "input": ["word"] * 2048})
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: HERE\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n"
    answer = sent(web, f"{head}Content-Length: {len(body)}\r\n\r\n{body}", taken_after=1.5)
    head, _, content = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert f"content-length: {len(content)}" not in head


def test_the_process_says_that_it_lives_while_the_database_keeps_all_waiting(
    web: Web, shared_url: str
) -> None:
    """A platform ends processes that do not say so."""
    with psycopg.connect(shared_url) as other:
        other.execute("lock table embedding_queue, embedding_targets")
        waiting = [
            threading.Thread(target=httpx.get, args=[f"{web.url}/readyz"], kwargs={"timeout": 30})
            for _ in range(60)  # more than there are threads
        ]
        for each in waiting:
            each.start()
        time.sleep(0.5)
        assert httpx.get(f"{web.url}/healthz", timeout=2).status_code == 200
    for each in waiting:
        each.join()


def test_connections_leave_files_to_the_rest_of_the_process(shared_url: str, db: Database) -> None:
    """A worker in the same process has to reach the database and its models."""
    command = [sys.executable, "-m", "worker", "serve", "--address", "127.0.0.1:0"]
    environment = {**os.environ, "DATABASE_URL": shared_url, "WORKER_WEB_TOKEN": ADMIN_TOKEN}
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)),
    ) as process:
        assert process.stderr
        url = process.stderr.readline().split()[-1]
        port = httpx.URL(url).port or 0
        try:
            with httpx.Client(base_url=url, timeout=30) as client, ExitStack() as opened:
                assert client.get("/healthz").status_code == 200
                for _ in range(600):
                    opened.enter_context(socket.create_connection(("127.0.0.1", port)))
                time.sleep(0.5)
                assert client.get("/readyz").status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
