"""The server of the dashboard: who gets in, what is refused, and how it ends."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from tests.web import ADMIN_TOKEN, READ_TOKEN, Web, served_web
from worker.errors import SettingsError
from worker.settings import Settings
from worker.web import guard, protocol
from worker.web.access import ATTEMPTS
from worker.web.server import served

PAUSE = "/workers/all/pause"


@pytest.fixture(scope="module")
def settings(shared_url: str) -> Settings:
    return Settings(database_url=shared_url)


@pytest.fixture(scope="module")
def web(settings: Settings) -> Iterator[Web]:
    with served_web(settings) as web:
        yield web


def port_of(web: Web) -> int:
    return httpx.URL(web.url).port or 0


# -- who gets in


def test_nobody_sees_a_page_without_a_token(web: Web) -> None:
    found = web.as_nobody.get("/?table=docs")
    assert found.status_code == 303
    assert found.headers["location"] == "/login?next=%2F%3Ftable%3Ddocs"
    assert web.as_nobody.get("/live?page=/").status_code == 401
    assert web.as_nobody.post(PAUSE, headers=web.of_a_browser).headers["location"] == "/login"


def test_a_token_gets_a_cookie_that_scripts_and_other_sites_cannot_use(web: Web) -> None:
    found = web.as_nobody.post("/login", data={"token": f" {ADMIN_TOKEN}\n", "next": "/"})
    assert found.status_code == 303
    cookie = found.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ADMIN_TOKEN not in cookie
    web.as_nobody.cookies.clear()
    linked = web.as_nobody.get("/login", params={"token": READ_TOKEN})
    assert linked.headers["location"] == "/"
    web.as_nobody.cookies.clear()


@pytest.mark.parametrize("next", ["https://evil.example", "//evil.example", "/nowhere", "\\x", ""])
def test_a_login_leads_only_to_our_pages(web: Web, next: str) -> None:
    found = web.as_nobody.post("/login", data={"token": ADMIN_TOKEN, "next": next})
    assert found.headers["location"] == "/"
    web.as_nobody.cookies.clear()


def test_wrong_tokens_are_refused_and_limited(settings: Settings) -> None:
    with served_web(settings) as web:
        for _ in range(ATTEMPTS):
            assert web.as_nobody.post("/login", data={"token": "wrong"}).status_code == 401
        found = web.as_nobody.post("/login", data={"token": ADMIN_TOKEN})
        assert found.status_code == 429
        assert web.get("/").status_code == 200  # those who are in stay in


def test_a_read_only_token_changes_nothing(web: Web) -> None:
    page = web.as_reader.get("/")
    assert page.status_code == 200
    assert "<button>" not in page.text
    assert web.as_reader.post(PAUSE, headers=web.of_a_browser).status_code == 403


def test_who_logs_out_is_out(web: Web) -> None:
    with httpx.Client(base_url=web.url) as client:
        client.post("/login", data={"token": ADMIN_TOKEN})
        assert client.get("/").status_code == 200
        client.post("/logout", headers=web.of_a_browser)
        assert client.get("/").status_code == 303


def test_an_address_of_this_machine_needs_no_token_of_ones_own_and_others_do(
    settings: Settings,
) -> None:
    with served(settings, "127.0.0.1:0") as server:
        assert server.token
        found = httpx.get(f"{server.url}/login", params={"token": server.token})
        assert found.status_code == 303
    with (
        pytest.raises(SettingsError, match="WORKER_WEB_TOKEN is not set"),
        served(settings, "0.0.0.0:0"),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1", "here:", ":8080", "127.0.0.1:99999", "a:b:c"])
def test_an_address_that_is_none_is_refused(settings: Settings, address: str) -> None:
    with pytest.raises(SettingsError) as refused, served(settings, address):
        pass
    assert refused.value.hint


def test_an_address_in_use_is_refused(settings: Settings, web: Web) -> None:
    with (
        pytest.raises(SettingsError, match="cannot be served"),
        served(settings, f"127.0.0.1:{port_of(web)}"),
    ):
        pass


# -- what is refused


def test_every_answer_has_the_security_headers(web: Web) -> None:
    answers = [
        web.get("/"),
        web.get("/nowhere"),
        web.as_nobody.get("/login"),
        web.get("/static/app.css"),
        web.as_nobody.get("/", headers={"host": "evil.example"}),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
    assert answers[0].headers["cache-control"] == "no-store"
    assert "immutable" in answers[3].headers["cache-control"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a@b:c"])
def test_other_hosts_are_refused(web: Web, host: str) -> None:
    assert web.as_admin.get("/", headers={"host": host}).status_code in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_forms_of_other_sites_are_refused(web: Web, headers: dict[str, str]) -> None:
    assert web.as_admin.post(PAUSE, headers=headers).status_code == 403
    assert web.as_nobody.post("/login", data={"token": "x"}, headers=headers).status_code == 403


def test_a_page_changes_nothing_when_it_is_only_opened(web: Web) -> None:
    assert web.get(PAUSE).status_code == 405


def test_bodies_that_are_too_large_are_refused(web: Web) -> None:
    assert web.post("/login", {"token": "x" * 300_000}).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(guard.MOST_BYTES // 2**20 + 1):
            yield b"x" * 2**20

    found = web.as_admin.post(PAUSE, content=endless(), headers=web.of_a_browser)
    assert found.status_code == 413


def test_requests_that_do_not_arrive_are_ended(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LONGEST_HEAD", 0.5)
    monkeypatch.setattr(guard, "LONGEST_REQUEST", 0.5)
    head = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{port_of(web)}\r\n".encode()
    slow_head = _answer(web, head)
    slow_body = _answer(web, head + b"Content-Length: 10\r\n\r\ntok")
    assert slow_head == b""
    assert slow_body.startswith(b"HTTP/1.1 408")


def _answer(web: Web, sent: bytes) -> bytes:
    """What comes back for the beginning of a request, until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port_of(web)), timeout=20) as connection:
        connection.sendall(sent)
        return connection.recv(1000)


def test_errors_are_pages_for_people_and_json_for_programs(web: Web) -> None:
    page = web.get("/nowhere")
    assert page.status_code == 404
    assert "<h1>Not found</h1>" in page.text
    found = web.as_nobody.get("/nowhere", headers={"accept": "application/json"}).json()
    assert found["error"]["type"] == "invalid_request_error"


def test_an_address_brings_no_words_onto_a_page(web: Web) -> None:
    page = web.get("/", notice="<script>alert(1)</script>", count="<b>")
    assert "alert(1)" not in page.text
    assert 'role="status"' not in page.text
    assert "All workers continue." in web.get("/", notice="resumed").text


# -- live updates, and the end


def read_event(response: httpx.Response) -> str:
    lines = response.iter_lines()
    while not (line := next(lines)).startswith("data:"):
        pass
    return line


def test_an_open_page_is_kept_up_to_date(web: Web) -> None:
    with web.as_admin.stream("GET", "/live", params={"page": "/"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert read_event(stream) == "data: <h1>Overview</h1>"
    assert web.as_admin.get("/live", params={"page": "/nowhere"}).status_code == 404


def test_it_ends_within_three_seconds_while_pages_are_open(settings: Settings) -> None:
    opened = threading.Event()

    def watch(web: Web) -> None:
        with (
            httpx.Client(base_url=web.url, cookies=web.as_admin.cookies) as client,
            client.stream("GET", "/live", params={"page": "/"}) as stream,
        ):
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    opened.set()

    with served_web(settings) as web:
        watcher = threading.Thread(target=watch, args=[web], daemon=True)
        watcher.start()
        assert opened.wait(20)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    watcher.join(5)
    assert not watcher.is_alive()


@pytest.mark.parametrize("passed_on", ["", "/worker"])
def test_behind_a_proxy_with_a_path_all_addresses_have_it(
    settings: Settings, passed_on: str
) -> None:
    """Some proxies pass the path on, and some take it away."""
    public = replace(
        settings, worker_web_url="https://ops.example.com/worker", worker_web_token=ADMIN_TOKEN
    )
    with served(public, "127.0.0.1:0") as server:
        assert server.url == "https://ops.example.com/worker"
        with httpx.Client(
            base_url=f"http://127.0.0.1:{server.port}{passed_on}",
            headers={"host": "ops.example.com", "accept": "text/html"},
        ) as client:
            assert client.get("/").headers["location"] == "/worker/login?next=%2F"
            found = client.post(
                "/login", data={"token": ADMIN_TOKEN}, headers={"origin": "https://ops.example.com"}
            )
            assert found.headers["location"] == "/worker/"
            assert "Path=/worker" in found.headers["set-cookie"]
            assert "Secure" in found.headers["set-cookie"]
            page = client.get("/", headers={"cookie": found.headers["set-cookie"].split(";")[0]})
            addresses = re.findall(r'(?:href|src|action|connect)="([^"#]*)"', page.text)
            assert len(addresses) > 8
            assert all(address.startswith("/worker/") for address in addresses)
            assert client.get("/static/app.css").status_code == 200
            foreign = client.post("/logout", headers={"origin": "http://ops.example.com.evil"})
            assert foreign.status_code == 403
