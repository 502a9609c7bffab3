"""An endpoint of one's own as a model, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.app_server import PATH, AppServer
from tests.http_server import Fault, answers, not_json, vector_for
from tests.unit.conftest import Open, failure, refusal
from worker.embedders.addresses import check_address
from worker.embedders.registry import check_model
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient

TOKEN = "tok-9f8e7d6c5b4a3210"


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


@pytest.fixture
def opened(opened: Open) -> Open:
    """The same for a model that EMBEDDING_MODEL names, unless the settings say otherwise."""
    return lambda model, **settings: opened(model, **{"embedding_model": model} | settings)


def test_a_text_becomes_the_vector_that_the_endpoint_gives(server: AppServer, opened: Open) -> None:
    embedder = opened(f"http:{server.url}")
    answer = embedder.embed(["a text, with an ümlaut"], "document")
    assert np.array_equal(answer.vectors, [vector_for("a text, with an ümlaut", 384)])
    assert answer.tokens is None
    [request] = server.requests
    assert request.body == {"text": "a text, with an ümlaut", "role": "document"}
    assert "authorization" not in request.headers


def test_what_it_says_of_itself(server: AppServer, opened: Open) -> None:
    embedder = opened(f"http:{server.url}")
    assert (embedder.provider, embedder.model) == ("http", f"http:{server.url}")
    assert embedder.price is None
    assert embedder.request_limits.items == 1
    assert (embedder.concurrency.first, embedder.concurrency.most) == (4, 32)


def test_several_texts_are_asked_for_one_by_one(server: AppServer, opened: Open) -> None:
    vectors = opened(f"http:{server.url}").embed(["first", "second"], "document").vectors
    assert np.array_equal(vectors, [vector_for("first", 384), vector_for("second", 384)])
    assert len(server.requests) == 2


def test_its_width_is_asked_for_with_one_letter(server: AppServer, opened: Open) -> None:
    embedder = opened(f"http:{server.url}")
    assert embedder.dimensions is None
    embedder.probe()
    embedder.probe()
    assert embedder.dimensions == 384
    assert [request.texts for request in server.requests] == [["a"]]


# Addresses


@pytest.mark.parametrize("end", ["", "/", PATH])
def test_an_address_without_a_path_means_the_usual_one(
    server: AppServer, opened: Open, end: str
) -> None:
    opened(f"http:{server.root}{end}").embed(["a text"], "document")
    assert server.requests[0].path == PATH


@pytest.mark.parametrize("end", ["", "/", "?a=b#c"])
def test_a_path_is_appended_to_the_base_url(server: AppServer, opened: Open, end: str) -> None:
    base = {"next_public_api_base_url": server.root + end}
    opened(f"http:{PATH}", **base).embed(["a text"], "document")
    failure(opened("http:/elsewhere", **base))
    assert [request.path for request in server.requests] == [PATH, "/elsewhere"]


def test_a_path_alone_needs_the_base_url(opened: Open) -> None:
    with pytest.raises(SettingsError, match="NEXT_PUBLIC_API_BASE_URL is not set"):
        opened(f"http:{PATH}")


@pytest.mark.parametrize(
    "name",
    [
        "https://me:hunter2@host/path",
        "https://me@host",
        "https://host/path?key=hunter2",
        "/path?key=hunter2",
        "https://host/path#hunter2",
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError, match="no user, password, query or fragment") as caught:
        check_model(f"http:{name}")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "name",
    ["host", "host/path", "//host/path", "ftp://host", "https://", "http://h:x", "http://[::", "x"],
)
def test_what_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="needs a valid address") as caught:
        check_address(name)
    assert "http:https://app.example.com/api/embeddings/generate" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["https://host", "http://host:8080/a/b", "/a/b", "http://[::1]/a"])
def test_an_address_is_accepted(name: str) -> None:
    check_model(f"http:{name}")


# The token


def test_the_token_goes_to_the_host_of_the_base_url(opened: Open) -> None:
    with AppServer(TOKEN) as server:
        settings = {"embedding_api_token": TOKEN, "next_public_api_base_url": server.root}
        opened(f"http:{PATH}", **settings).embed(["a text"], "document")
        opened(f"http:{server.url}", **settings).embed(["a text"], "document")


def test_the_token_goes_to_the_host_of_the_default_model(opened: Open) -> None:
    with AppServer(TOKEN) as server:
        model = f"http:{server.url}"
        opened(model, embedding_api_token=TOKEN, embedding_model=model).embed(
            ["a text"], "document"
        )


# Hosts


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://app.example.com/path",
        "http://app.example.com:8080/path",
        "http://app.example.com.evil.example/path",
        "http://evil.example/http://app.example.com",
        "http://app.example.com%2eevil.example/path",
        "http://app.example.com\\.evil.example/path",
        "http://localhost/",
        "http://[::ffff:169.254.169.254]/",
        "http://0x7f000001/",
    ],
)
@pytest.mark.parametrize(
    "named",
    [
        {},
        {"next_public_api_base_url": "http://app.example.com/base"},
        {"embedding_model": "http:http://app.example.com/path"},
        {"embedding_model": "http:/path", "next_public_api_base_url": "http://app.example.com"},
    ],
)
def test_a_host_that_only_the_database_names_is_refused_with_the_setting(
    opened: Open, address: str, named: dict[str, str]
) -> None:
    settings = {"embedding_model": "local:wordllama-256", "embedding_api_token": TOKEN} | named
    with pytest.raises(SettingsError, match="on a host that the environment does not name") as why:
        opened(f"http:{address}", **settings)
    host = "/".join(address.split("/")[:3])
    assert f"set NEXT_PUBLIC_API_BASE_URL={host}, or EMBEDDING_MODEL" in str(why.value.hint)
    assert TOKEN not in f"{why.value} {why.value.hint}"


@pytest.mark.parametrize(
    "address",
    [
        *("http://app.example.com/path", "http://app.example.com", "http://app.example.com:80/"),
        *("HTTP://APP.example.com/path", "http://app.example.com/other/../path"),
    ],
)
@pytest.mark.parametrize(
    "named",
    [
        {"next_public_api_base_url": "http://app.example.com/base"},
        {"embedding_model": "http:http://app.example.com/path"},
    ],
)
def test_any_path_of_a_host_that_the_environment_names_can_be_asked(
    opened: Open, address: str, named: dict[str, str]
) -> None:
    opened(f"http:{address}", **{"embedding_model": "local:wordllama-256"} | named)


@pytest.mark.parametrize(
    "name",
    [
        *("//evil.example/path", "http://app.example.com@evil.example/", "http://evil@x/ok"),
        *("http://app.example.com\\@evil.example/path", "file:///etc/passwd", "gopher://x/"),
        *("http://app.example.com/?x=1", "http://app.example.com/#y", "http:/\\x/"),
    ],
)
def test_what_could_lead_elsewhere_is_no_address(opened: Open, name: str) -> None:
    with pytest.raises(SettingsError):
        opened(f"http:{name}", next_public_api_base_url="http://app.example.com")


@pytest.mark.parametrize(
    "path", ["/\\@evil.example/x", "/%0d%0aHost:evil", "/../../x", "/a b", "/é"]
)
def test_a_path_leads_to_no_other_host(server: AppServer, opened: Open, path: str) -> None:
    failure(opened(f"http:{path}", next_public_api_base_url=server.root))
    assert [request.headers["host"] for request in server.requests] == [server.root[7:]]


def test_a_default_model_that_is_no_address_is_an_error_of_settings(opened: Open) -> None:
    with pytest.raises(SettingsError, match="needs a valid address"):
        opened("http:http://app.example.com", embedding_model="http:http://host:port/")


def test_a_wrong_token_is_refused_and_never_repeated(opened: Open) -> None:
    with AppServer(TOKEN) as server:
        model = f"http:{server.url}"
        server.faults.append(answers(401, {"error": "Unauthorized: wrong-1234567890"}))
        wrong = {"embedding_api_token": "wrong-1234567890", "embedding_model": model}
        error = failure(opened(model, **wrong))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(" answered 401: Unauthorized: [redacted]")
    assert error.hint == "Check EMBEDDING_API_TOKEN, then start again."


def test_a_token_that_no_header_can_hold_is_an_error_of_settings(opened: Open) -> None:
    model = "http:https://app.example.com"
    with pytest.raises(SettingsError, match="EMBEDDING_API_TOKEN holds a space"):
        opened(model, embedding_api_token="two words", embedding_model=model)


# Answers


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"embedding": [3, 4]}, None),
        ({"success": True, "data": {"embedding": [3, 4]}, "error": None}, None),
        ({"data": [{"embedding": [3, 4], "index": 0}], "usage": {"total_tokens": 7}}, [7]),
        ({"data": [3, 4]}, None),
        ([3, 4], None),
        ({"embedding": [3, 4], "tokens": 7}, [7]),
        ({"embedding": [3, 4], "usage": {"prompt_tokens": 7}}, [7]),
        ({"embedding": [3, 4], "tokens": True}, None),
        ({"embedding": [3, 4], "tokens": -1}, None),
    ],
)
def test_an_answer_is_understood_in_each_of_the_usual_shapes(
    server: AppServer, opened: Open, body: object, tokens: list[int] | None
) -> None:
    server.faults.append(answers(200, body))
    answer = opened(f"http:{server.url}").embed(["a text"], "document")
    assert answer.vectors.tolist() == [[3, 4]]
    assert answer.tokens == tokens


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (not_json, "not JSON: <html>Please log in"),
        (answers(200, {}), "no list `embedding` in {}"),
        (answers(200, {"embedding": None}), "no list `embedding`"),
        (answers(200, {"error": "quota of the model"}), "an error with status 200: quota"),
        (answers(200, {"embedding": []}), "vectors of different widths, or of none"),
        (answers(200, {"embedding": [[1.0]]}), "vectors of different widths, or of none"),
        (answers(200, {"data": [{"embedding": [1]}, {"embedding": [2]}]}), ""),
        (answers(200, {"embedding": ["x"]}), ""),
    ],
)
def test_a_garbled_answer_is_transient(
    server: AppServer, opened: Open, fault: Fault, problem: str
) -> None:
    server.faults.append(fault)
    error = failure(opened(f"http:{server.url}"))
    assert isinstance(error, Transient)
    assert f" sent an unusable answer: {problem}" in error.cause
    assert error.error_class == "bad_answer"


@pytest.mark.parametrize(
    ("status", "kind", "error_class"),
    [
        (400, Rejected, "rejected"),
        (413, Rejected, "too_long"),
        (404, ProviderRefused, "not_found"),
        (405, ProviderRefused, "refused"),
        (429, Transient, "rate_limited"),
        (500, Transient, "provider_error"),
        (502, Transient, "provider_error"),
        (503, Transient, "overloaded"),
        (504, Transient, "timed_out"),
    ],
)
def test_each_status_has_its_class(
    server: AppServer, opened: Open, status: int, kind: type[Any], error_class: str
) -> None:
    server.faults.append(answers(status, {"error": "in words"}))
    error = failure(opened(f"http:{server.url}"))
    assert isinstance(error, kind)
    assert error.cause.endswith(f" answered {status}: in words")
    assert error.error_class == error_class


def test_an_endpoint_that_is_not_there_is_refused_with_what_to_look_at(
    server: AppServer, opened: Open
) -> None:
    error = refusal(opened(f"http:{server.root}/elsewhere"))
    assert isinstance(error, ProviderRefused)
    assert "the address in the model's name, or NEXT_PUBLIC_API_BASE_URL" in str(error.hint)
