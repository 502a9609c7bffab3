"""Proxies that the environment names: they work, or one sentence says what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.openai_server import OpenAIServer
from tests.unit.conftest import Open
from worker.errors import ProviderError, SettingsError, WorkerError
from worker.observers.channels import NotDelivered, Notice, Webhook
from worker.proxies import direct_mounts
from worker.queue.transports.rest import Rest

PASSWORD = "hunter2"
NOTICE = Notice("words", "event", {}, "worker", "now")

PROXIES = [
    *("socks://127.0.0.1:9", "socks4://127.0.0.1:9", "socks5://127.0.0.1:9", "socks5h://h:9"),
    *(f"socks5://me:{PASSWORD}@127.0.0.1:9", f"http://me:{PASSWORD}@127.0.0.1:9"),
    *("http://", "http://[", "http://host:port", "http://h:99999", "http://h h", "ftp://h", ":"),
    *("127.0.0.1:9", "://", "http://" + "a" * 70, "http://é:9", f"http://me:{PASSWORD}@h:x"),
]
EXCEPTIONS = [
    *("10.0.0.0/8", "::1", "[::1]", "::1/128", "fd00::/8", "fe80::1%eth0", "*.example.com"),
    *("localhost,127.0.0.1,10.0.0.0/8,::1/128,.example.com", "[", "a b", ",,", "http://[", "é"),
    *("192.168.0.0/33", "*", "*example.com:80", "example.com:port", "::ffff:0:0/96"),
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def each(variables: list[str], values: list[str]) -> pytest.MarkDecorator:
    given = [(variables[place % len(variables)], value) for place, value in enumerate(values)]
    return pytest.mark.parametrize(("variable", "value"), given)


def check(problem: WorkerError | NotDelivered) -> None:
    assert PASSWORD not in f"{problem} {getattr(problem, 'hint', '')}"
    assert str(problem).isprintable()


each_proxy = each(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"], PROXIES)


@each_proxy
def test_a_model_is_asked_or_one_sentence_says_why_not(
    opened: Open, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises((SettingsError, ProviderError)) as caught:
        opened("ollama:m", ollama_host="http://model.invalid", embedding_timeout_seconds=0.2).embed(
            ["a text"], "document"
        )
    check(caught.value)
    if isinstance(caught.value, SettingsError):
        assert variable in caught.value.cause


@each(["NO_PROXY", "no_proxy"], EXCEPTIONS)
def test_exceptions_from_the_proxy_are_understood_or_passed_over(
    running: OpenAIServer,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, f"{value},127.0.0.1")
    settings = {"openai_base_url": running.base_url, "openai_api_key": running.api_key}
    opened("openai:text-embedding-3-small", **settings).embed(["a text"], "document")


@pytest.mark.parametrize(
    ("listed", "url", "is_direct"),
    [
        ("10.0.0.0/8", "http://10.1.2.3:11434/v1", True),
        ("localhost, 10.0.0.0/8 ,::1/128", "http://10.1.2.3", True),
        ("10.1.2.3/8", "http://10.9.9.9", True),
        ("fd00::/8", "http://[fd12::1]:8080/", True),
        ("[fd00::]/8", "http://[fd12::1]:8080/", True),
        ("10.0.0.0/8", "http://11.0.0.1", False),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]", False),
        ("10.0.0.0/33,/,a/b,10.0.0.0/x", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://host.example", False),
        ("10.0.0.0/8", "http://[", False),
        ("", "http://10.1.2.3", False),
    ],
)
def test_a_range_of_addresses_is_called_directly(
    monkeypatch: pytest.MonkeyPatch, listed: str, url: str, is_direct: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", listed)
    assert bool(direct_mounts(url)) == is_direct


def test_a_model_in_a_range_is_asked_directly(
    running: OpenAIServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    settings = {"openai_base_url": running.base_url, "openai_api_key": running.api_key}
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    opened("openai:text-embedding-3-small", **settings).embed(["a text"], "document")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    with pytest.raises(ProviderError):
        opened("openai:text-embedding-3-small", **settings).embed(["a text"], "document")


@each_proxy
def test_the_data_api_is_asked_or_one_sentence_says_why_not(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(WorkerError) as caught:
        Rest("http://127.0.0.1:9", "key", "name").call("embedding_rate", {"model": "m"})
    check(caught.value)


@each(["NO_PROXY", "no_proxy"], EXCEPTIONS)
def test_exceptions_that_the_client_of_the_data_api_cannot_read_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    with pytest.raises(WorkerError) as caught:
        Rest("http://127.0.0.1:9", "key", "name").call("embedding_rate", {"model": "m"})
    if isinstance(caught.value, SettingsError):
        assert variable in caught.value.cause
        assert value not in caught.value.cause


@each_proxy
def test_people_are_told_or_one_sentence_says_why_not(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr("worker.observers.channels.TRIES", 1)
    monkeypatch.setenv(variable, value)
    with pytest.raises(NotDelivered) as caught:
        Webhook(f"http://127.0.0.1:9/{PASSWORD}").deliver(NOTICE)
    check(caught.value)


@each(["NO_PROXY", "no_proxy"], EXCEPTIONS)
def test_people_are_told_or_the_exceptions_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr("worker.observers.channels.TRIES", 1)
    monkeypatch.setenv(variable, value)
    with pytest.raises(NotDelivered):
        Webhook("http://127.0.0.1:9/").deliver(NOTICE)


def test_a_certificate_file_that_is_not_there_is_named(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(WorkerError) as caught:
        opened("openai:m", openai_api_key="sk-x", openai_base_url="https://127.0.0.1:9").embed(
            ["a text"], "document"
        )
    check(caught.value)
