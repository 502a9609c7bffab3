"""The vendors' dialects, each against a stand-in with the fields and errors of its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.http_server import answers, as_json, tokens_in, vector_for
from tests.unit.conftest import Open, failure, refusal
from tests.vendor_server import VENDORS, VendorServer
from worker.embedders.base import Embedder
from worker.embedders.dialects import DIALECTS
from worker.embedders.models import MODELS, known
from worker.embedders.registry import open_embedder
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient
from worker.settings import VENDORS as VENDORS_WITH_KEYS
from worker.settings import Settings

each_vendor = pytest.mark.parametrize("name", VENDORS)
with_roles = pytest.mark.parametrize("name", [n for n, vendor in VENDORS.items() if vendor.roles])


def settings_for(server: VendorServer, **more: Any) -> dict[str, Any]:
    return {f"{server.name}_api_key": server.key, f"{server.name}_base_url": server.base_url} | more


def at(opened: Open, server: VendorServer, dimensions: int | None = None, **more: Any) -> Embedder:
    model = f"{server.name}:{server.vendor.model}"
    return opened(model, dimensions, **settings_for(server, **more))


def test_each_vendor_has_a_dialect_a_stand_in_and_settings() -> None:
    assert DIALECTS.keys() == {*VENDORS, "openai"} == set(VENDORS_WITH_KEYS)


@each_vendor
def test_texts_become_the_vectors_that_the_vendor_computes(opened: Open, name: str) -> None:
    texts = ["first", "second, with an ümlaut and a 😀", "third"]
    with VendorServer(name) as server:
        embedder = at(opened, server)
        embedder.probe()  # everything is known: nothing is sent
        answer = embedder.embed(texts, "document")
        [request] = server.requests
    assert embedder.model == f"{name}:{server.vendor.model}"
    assert answer.vectors.dtype == np.float32
    assert np.allclose(answer.vectors, [vector_for(t, server.vendor.width) for t in texts])
    assert embedder.dimensions == server.vendor.width == answer.vectors.shape[1]
    counted = sum(map(tokens_in, texts))
    says_usage = name not in ("gemini", "together")
    assert answer.tokens is None or sum(answer.tokens) == counted
    assert (answer.tokens is not None) == says_usage
    assert request.path == server.vendor.path


@with_roles
def test_queries_and_documents_are_sent_with_their_role(opened: Open, name: str) -> None:
    with VendorServer(name) as server:
        embedder = at(opened, server)
        embedder.embed(["a text"], "document")
        embedder.embed(["a text"], "query")
    document, query = server.roles
    assert {document, query} == server.vendor.roles[DIALECTS[name].role or ""]
    assert document != query
    assert "query" in str(query).lower()
    assert server.sent == [["a text"], ["a text"]]  # the text itself is the same


def test_a_vendor_without_roles_gets_the_prompts_of_the_model(opened: Open) -> None:
    with VendorServer("together") as server:
        embedder = at(opened, server)
        embedder.embed(["a text"], "document")
        embedder.embed(["a text"], "query")
    [[document], [query]] = server.sent
    assert document == "a text"
    assert query.startswith("Instruct: ")
    assert query.endswith("\nQuery: a text")


@pytest.mark.parametrize("model", [name for name, about in MODELS.items() if not about.has_roles])
def test_a_model_that_takes_no_role_is_sent_none(opened: Open, model: str) -> None:
    vendor = "gemini" if model.startswith("gemini") else "jina"
    with VendorServer(vendor) as server:
        embedder = opened(f"{vendor}:{model}", **settings_for(server))
        for role in ("document", "query"):
            with pytest.raises(Exception, match=r"must be one of|is at"):
                embedder.embed(["a text"], role)
    field = DIALECTS[vendor].role
    assert not any(f'"{field}"'.encode() in as_json(request.body) for request in server.requests)


@each_vendor
def test_a_wrong_key_is_refused_and_never_repeated(opened: Open, name: str) -> None:
    key = "wrong-0123456789abcdef"
    with VendorServer(name) as server:
        error = failure(at(opened, server, None, **{f"{name}_api_key": key}))
    assert isinstance(error, ProviderRefused)
    assert (error.error_class, error.of_the_model) == ("unauthorized", False)
    assert error.hint == f"Check {name.upper()}_API_KEY, then start again."
    assert key not in error.cause


@each_vendor
def test_a_key_that_the_vendor_repeats_is_taken_out(opened: Open, name: str) -> None:
    with VendorServer(name) as server:
        server.faults.append(answers(401, {"message": f"the key {server.key} is blocked"}))
        error = failure(at(opened, server))
    assert error.cause.endswith("the key [redacted] is blocked")


# The vendor says the limit and the length, only the limit, or neither.
TOO_LONG = {
    "voyage": None,
    "mistral": 8192 / 8250,
    "cohere": None,
    "nvidia": 512 / 570,
    "gemini": 2048 / 2106,
}


@pytest.mark.parametrize(("name", "share"), TOO_LONG.items())
def test_a_text_that_is_too_long_is_never_truncated(
    opened: Open, name: str, share: float | None
) -> None:
    with VendorServer(name) as server:
        embedder = at(opened, server)
        long = "long" * (server.vendor.tokens + 58)
        error = failure(embedder, long)
        among_others = failure(embedder, "short", long)
        embedder.embed(["short"], "document")
    assert isinstance(error, Rejected)
    assert (error.error_class, among_others.error_class) == ("too_long", "too_long")
    assert error.share == (pytest.approx(share) if share else None)


def test_jina_rejects_a_text_that_is_too_long_in_words_of_its_own(opened: Open) -> None:
    with VendorServer("jina") as server:
        error = failure(at(opened, server), "long" * 8250)
    assert isinstance(error, Rejected)


def test_gemini_is_asked_for_the_tokens_of_long_texts_only_and_once(opened: Open) -> None:
    with VendorServer("gemini") as server:
        embedder = at(opened, server)
        embedder.embed(["x" * 2048], "document")
        assert len(server.requests) == 1  # no token is shorter than a byte
        embedder.embed(["x" * 8192, "short"], "document")
        embedder.embed(["x" * 8192], "document")
        paths = [request.path.rpartition(":")[2] for request in server.requests[1:]]
    assert paths == ["countTokens", "batchEmbedContents", "batchEmbedContents"]


def test_gemini_counts_the_prompt_as_well(opened: Open) -> None:
    with VendorServer("gemini") as server:
        settings = Settings(**settings_for(server))
        model = f"gemini:{server.vendor.model}"
        embedder = open_embedder(model, None, settings, document_prompt="prompt " * 20)
        error = failure(embedder, "long" * 2048)
        embedder.close()
    assert error.error_class == "too_long"


@pytest.mark.parametrize("said", [b"{}", b'{"totalTokens": "9"}', b'{"totalTokens": -1}', b"[]"])
def test_a_count_of_gemini_that_says_nothing_is_a_bad_answer(opened: Open, said: bytes) -> None:
    with VendorServer("gemini") as server:
        server.faults.append(answers(200, said))
        error = failure(at(opened, server), "long" * 2048)
    assert isinstance(error, Transient)
    assert error.error_class == "bad_answer"


def test_vectors_of_gemini_are_brought_to_unit_length(opened: Open) -> None:
    with VendorServer("gemini") as server:
        vectors = at(opened, server, 768).embed(["a text"], "document").vectors
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors, [vector_for("a text", 768)])


@pytest.mark.parametrize(
    ("words", "status", "error_class"),
    [
        (
            {
                "detail": "Request to model 'voyage-3-large' failed. The max allowed tokens per"
                " submitted batch is 120000. Your batch has 124302 tokens after truncation."
            },
            400,
            "too_large",
        ),
        ({"message": "Too many tokens overall, split into more batches."}, 400, "too_large"),
        ({"message": "Too many inputs in request, split into more batches."}, 400, "too_large"),
        ({"message": "Too many tokens in batch. Max is 16384 got 17555"}, 400, "too_large"),
        (
            {
                "error": {
                    "code": 400,
                    "message": "Request payload size exceeds the limit: 4194304 bytes.",
                }
            },
            400,
            "too_large",
        ),
        ({"detail": "an unknown reason"}, 422, "rejected"),
    ],
)
def test_a_request_that_is_too_large_is_told_from_a_text_that_is_rejected(
    opened: Open, words: object, status: int, error_class: str
) -> None:
    with VendorServer("voyage") as server:
        server.faults.append(answers(status, words))
        embedder = at(opened, server)
        error = failure(embedder, "a" * 600, "b" * 600)
    assert (type(error), error.error_class) == (Rejected, error_class)
    assert embedder.request_limits.bytes == (600 if error_class == "too_large" else 1_000_000)


@pytest.mark.parametrize(
    ("name", "words", "most"),
    [
        ("jina", "Validation error: Each input list can contain at most 512 items.", 512),
        ("gemini", "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one", 100),
    ],
)
def test_a_limit_of_texts_is_learned(opened: Open, name: str, words: str, most: int) -> None:
    with VendorServer(name) as server:
        server.faults.append(answers(400, {"detail": words + " batch"}))
        embedder = at(opened, server)
        embedder.request_limits = DIALECTS["openai"].limits
        error = failure(embedder, *"abc")
    assert error.error_class == "too_large"
    assert embedder.request_limits.items == most


def test_gemini_says_in_words_how_long_to_wait(opened: Open) -> None:
    words = (
        "You exceeded your current quota, please check your plan and billing details. "
        "* Quota exceeded for metric: embed_content_free_tier_requests. Please retry in 34.07s."
    )
    with VendorServer("gemini") as server:
        server.faults.append(
            answers(429, {"error": {"code": 429, "message": words, "status": "RESOURCE_EXHAUSTED"}})
        )
        error = failure(at(opened, server))
    assert isinstance(error, Transient)
    assert (error.error_class, error.retry_after) == ("rate_limited", 34.07)


@each_vendor
def test_an_unknown_model_is_refused(opened: Open, name: str) -> None:
    with VendorServer(name) as server:
        error = refusal(opened(f"{name}:../v1/no such model?", **settings_for(server)))
        [request] = server.requests
    assert isinstance(error, ProviderRefused)
    assert (error.error_class, error.of_the_model) == ("not_found", True)
    assert "/../" not in request.path
    assert "?" not in request.path


WIDTHS = [
    ("voyage", 2048, 2048),
    ("voyage", 300, 1024),
    ("mistral", 512, 1024),
    ("jina", 64, 64),
    ("gemini", 1000, 1000),
    ("cohere", 256, 256),
    ("nvidia", 512, 1024),
    ("together", 512, 1024),
]


@pytest.mark.parametrize(("name", "column", "width"), WIDTHS)
def test_a_width_is_asked_for_where_the_model_has_it(
    opened: Open, name: str, column: int, width: int
) -> None:
    with VendorServer(name) as server:
        embedder = at(opened, server, column)
        vectors = embedder.embed(["a text"], "document").vectors
    assert embedder.dimensions == width == vectors.shape[1]


def test_without_a_key_the_address_must_be_one_s_own(opened: Open) -> None:
    with pytest.raises(SettingsError, match="VOYAGE_API_KEY is not set"):
        opened("voyage:voyage-4")
    assert opened("nvidia:nvidia/nv-embedqa-e5-v5", nvidia_base_url="http://127.0.0.1:8000/v1")


def test_two_vendors_have_their_own_keys_and_addresses(opened: Open) -> None:
    with VendorServer("voyage", "key-of-voyage-12345") as one, VendorServer("mistral") as other:
        settings = settings_for(one) | settings_for(other)
        for server in (one, other):
            opened(f"{server.name}:{server.vendor.model}", **settings).embed(["a"], "document")
        assert (len(one.requests), len(other.requests)) == (1, 1)


# EMBEDDING_EXTRA_BODY


def test_what_the_table_does_not_know_goes_into_the_body(opened: Open) -> None:
    extra = {"mistral": {"metadata": {"team": "search"}}, "voyage": {"nothing": 1}}
    with VendorServer("mistral") as server:
        embedder = at(opened, server, embedding_extra_body=extra)
        embedder.embed(["a text"], "document")
        [request] = server.requests
    assert request.body["metadata"] == {"team": "search"}
    assert "nothing" not in request.body


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *((name, "model") for name in VENDORS),
        *((name, DIALECTS[name].role) for name in VENDORS if DIALECTS[name].role),
        *((name, DIALECTS[name].width) for name in VENDORS if DIALECTS[name].width),
        *((name, field) for name in VENDORS for field in DIALECTS[name].fixed),
        ("openai", "truncate_prompt_tokens"),
        ("openai", "encoding_format"),
        ("azure", "input"),
        ("gemini", "autoTruncate"),
        ("gemini", "content"),
        ("jina", "late_chunking"),
        ("voyage", "output_dtype"),
    ],
)
def test_what_makes_a_vector_another_one_may_not_be_set(
    opened: Open, name: str, field: str
) -> None:
    settings: dict[str, Any] = {
        f"{name}_api_key": "any-key",
        "azure_openai_api_key": "any-key",
        "azure_openai_endpoint": "https://given.openai.azure.com",
        "embedding_extra_body": {name: {field: "x"}},
    }
    if name == "azure":
        del settings["azure_api_key"]
    with pytest.raises(SettingsError, match=f"EMBEDDING_EXTRA_BODY may not set `{field}`"):
        opened(f"{name}:a-model", **settings)


def test_the_facts_about_a_model_of_a_vendor_name_widths_that_it_has() -> None:
    for name, about in MODELS.items():
        assert about.width_to_ask_for(about.width) is None, name
        assert about.width_to_ask_for(None) is None, name
        assert all(about.width_to_ask_for(w) == w for w in about.widths if w != about.width), name
    assert known("us.cohere.embed-v4:0") is known("cohere.embed-v4:0")
