"""Azure as a provider: the same dialect at another address, with deployments for models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.azure_server import NO_DEPLOYMENT, WRONG_KEY, AzureServer
from tests.http_server import answers, vector_for
from tests.unit.conftest import Open, failure, refusal
from worker.errors import ProviderRefused, SettingsError, Transient

SMALL = "text-embedding-3-small"
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def server() -> Iterator[AzureServer]:
    with AzureServer(KEY) as server:
        yield server


@pytest.mark.parametrize(
    "end",
    [
        "",
        "/",
        "/openai",
        "/openai/v1",
        "/openai/v1/",
        "/openai/deployments/mine/embeddings?api-version=2024-10-21",
    ],
)
def test_the_endpoint_may_be_any_address_that_the_portal_shows(
    server: AzureServer, opened: Open, end: str
) -> None:
    settings = {"azure_openai_endpoint": server.root + end, "azure_openai_api_key": KEY}
    embedder = opened(f"azure:{SMALL}", **settings)
    assert np.array_equal(
        embedder.embed(["a text"], "document").vectors, [vector_for("a text", 1536)]
    )
    assert server.requests[0].path == "/openai/v1/embeddings"


def test_a_host_called_openai_is_no_path(opened: Open) -> None:
    settings = {"azure_openai_endpoint": "https://openai/", "azure_openai_api_key": KEY}
    assert opened(f"azure:{SMALL}", **settings)._connection.base_url == (  # type: ignore[attr-defined]
        "https://openai/openai/v1"
    )


def test_a_deployment_called_like_its_model_is_known_as_that(
    server: AzureServer, opened: Open
) -> None:
    settings = {"azure_openai_endpoint": server.root, "azure_openai_api_key": KEY}
    embedder = opened(f"azure:{SMALL}", 256, **settings)
    embedder.probe()
    assert not server.requests
    assert (embedder.provider, embedder.model) == ("azure", f"azure:{SMALL}")
    assert (embedder.dimensions, embedder.price, embedder.request_limits.items) == (256, 0.02, 2048)
    assert embedder.embed(["a text"], "document").vectors.shape == (1, 256)


def test_another_deployment_is_asked_for_its_width(server: AzureServer, opened: Open) -> None:
    settings = {"azure_openai_endpoint": server.root, "azure_openai_api_key": KEY}
    embedder = opened("azure:mine", 256, **settings)
    embedder.probe()
    assert embedder.dimensions == 1536
    assert embedder.price is None
    assert [request.texts for request in server.requests] == [["a"]]


def test_the_address_of_openai_has_no_effect(server: AzureServer, opened: Open) -> None:
    opened(
        f"azure:{SMALL}",
        openai_base_url="http://127.0.0.1:9/v1",
        openai_api_key="sk-given",
        azure_openai_endpoint=server.root,
        azure_openai_api_key=KEY,
    ).embed(["a text"], "document")
    assert server.requests[0].bearer == KEY


def test_a_wrong_key_is_refused_with_the_setting_to_look_at(
    server: AzureServer, opened: Open
) -> None:
    settings = {"azure_openai_endpoint": server.root, "azure_openai_api_key": "f" * 32}
    error = failure(opened(f"azure:{SMALL}", **settings))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(f" answered 401: {WRONG_KEY}")
    assert error.hint == "Check AZURE_OPENAI_API_KEY, then start again."
    assert error.error_class == "unauthorized"


def test_a_deployment_that_does_not_exist_is_refused(server: AzureServer, opened: Open) -> None:
    settings = {"azure_openai_endpoint": server.root, "azure_openai_api_key": KEY}
    error = refusal(opened("azure:nowhere", **settings))
    assert isinstance(error, ProviderRefused)
    assert error.cause.endswith(f" answered 404: {NO_DEPLOYMENT}")
    assert "AZURE_OPENAI_ENDPOINT" in str(error.hint)
    assert (error.error_class, error.of_the_model) == ("not_found", True)


def test_the_wait_that_azure_asks_for_in_words_is_passed_on(
    server: AzureServer, opened: Open
) -> None:
    words = "Requests have exceeded call rate limit. Please retry after 26 seconds."
    server.faults.append(answers(429, {"error": {"code": "429", "message": words}}))
    settings = {"azure_openai_endpoint": server.root, "azure_openai_api_key": KEY}
    error = failure(opened(f"azure:{SMALL}", **settings))
    assert isinstance(error, Transient)
    assert (error.error_class, error.retry_after) == ("rate_limited", 26)


@pytest.mark.parametrize("missing", ["azure_openai_endpoint", "azure_openai_api_key"])
def test_endpoint_and_key_are_needed(opened: Open, missing: str) -> None:
    settings = {"azure_openai_endpoint": "https://host", "azure_openai_api_key": KEY}
    del settings[missing]
    with pytest.raises(SettingsError, match="AZURE_OPENAI_ENDPOINT or AZURE_OPENAI_API_KEY"):
        opened(f"azure:{SMALL}", **settings)
