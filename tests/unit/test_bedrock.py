"""Amazon Bedrock: a stand-in for its InvokeModel, and requests that boto3 signs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import boto3
import numpy as np
import pytest

from tests.aws_descriptions import read_once
from tests.bedrock_server import COHERE, COHERE_3, KEY, TITAN, BedrockServer
from tests.hostile_server import HostileServer, dripped
from tests.http_server import Fault, answers, tokens_in, vector_for
from tests.unit.conftest import Open, failure, refusal
from worker.embedders import bedrock
from worker.errors import ProviderRefused, Rejected, SettingsError, Transient


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BedrockServer]:
    with BedrockServer() as server:
        use(server.environment, monkeypatch, tmp_path)
        yield server


def use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    """Let boto3 find this, and nothing else of this machine."""
    read_once()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    for name, text in environment.items():
        monkeypatch.setenv(name, text)


def refused(status: int, kind: str, words: str = "") -> Fault:
    return answers(status, {"message": words}, **{"x-amzn-errortype": kind})


def test_titan_gets_one_text_a_request_and_says_its_tokens(
    server: BedrockServer, opened: Open
) -> None:
    embedder = opened(f"bedrock:{TITAN}")
    embedder.probe()  # everything is known: nothing is sent
    answer = embedder.embed(["a text with an ümlaut"], "document")
    [request] = server.requests
    assert embedder.request_limits.items == 1
    assert (embedder.dimensions, embedder.price) == (1024, 0.02)
    assert np.allclose(answer.vectors, [vector_for("a text with an ümlaut", 1024)])
    assert answer.tokens == [tokens_in("a text with an ümlaut")]
    assert request.body == {"inputText": "a text with an ümlaut", "normalize": True}
    assert request.path == "/model/amazon.titan-embed-text-v2%3A0/invoke"


def test_titan_is_asked_for_the_widths_that_it_has(server: BedrockServer, opened: Open) -> None:
    for column, width in ((256, 256), (300, 1024)):
        embedder = opened(f"bedrock:{TITAN}", column)
        assert embedder.embed(["a text"], "document").vectors.shape == (1, width)


@pytest.mark.parametrize("model", [COHERE, f"eu.{COHERE}", COHERE_3])
def test_the_models_of_cohere_get_roles_and_many_texts(
    server: BedrockServer, opened: Open, model: str
) -> None:
    texts = ["first", "second"]
    embedder = opened(f"bedrock:{model}")
    answer = embedder.embed(texts, "document")
    embedder.embed(texts, "query")
    bodies = [request.body for request in server.requests]
    assert [body["input_type"] for body in bodies] == ["search_document", "search_query"]
    assert {body["truncate"] for body in bodies} == {"NONE"}
    assert np.allclose(answer.vectors, [vector_for(t, embedder.dimensions or 0) for t in texts])
    assert sum(answer.tokens or []) == sum(map(tokens_in, texts))


@pytest.mark.parametrize(
    ("model", "text", "share"),
    [(TITAN, "long" * 8200, 8192 / 8200), (COHERE_3, "x" * 2560, 2048 / 2560)],
)
def test_a_text_that_is_too_long_is_never_truncated(
    server: BedrockServer, opened: Open, model: str, text: str, share: float
) -> None:
    error = failure(opened(f"bedrock:{model}"), text)
    assert isinstance(error, Rejected)
    assert error.error_class == "too_long"
    assert error.share == pytest.approx(share)


def test_a_wrong_key_is_refused_and_never_repeated(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG43210987654")
    error = failure(opened(f"bedrock:{TITAN}"))
    assert isinstance(error, ProviderRefused)
    assert error.error_class == "unauthorized"
    assert error.cause.endswith(" 403: The security token included in the request is invalid.")
    assert "AWS credentials" in str(error.hint)


@pytest.mark.parametrize("secret", [KEY, "ASIA1234567890ABCDEF", "x+/9" * 30])
def test_no_credential_is_repeated(server: BedrockServer, opened: Open, secret: str) -> None:
    server.faults.append(refused(403, "InvalidSignatureException", f"Credential={secret}/2026"))
    assert secret not in failure(opened(f"bedrock:{TITAN}")).cause


@pytest.mark.parametrize(
    ("status", "kind", "words", "error", "error_class"),
    [
        (403, "AccessDeniedException", "You don't have access", ProviderRefused, "unauthorized"),
        (403, "ExpiredTokenException", "it is expired", ProviderRefused, "unauthorized"),
        (400, "IncompleteSignature", "no signature", ProviderRefused, "unauthorized"),
        (404, "ResourceNotFoundException", "no such profile", ProviderRefused, "not_found"),
        (
            400,
            "ValidationException",
            "Invocation of model ID x with on-demand throughput isn't supported.",
            ProviderRefused,
            "not_found",
        ),
        (400, "ValidationException", "something about the text", Rejected, "rejected"),
        (429, "ThrottlingException", "Too many requests", Transient, "rate_limited"),
        (400, "ServiceQuotaExceededException", "the quota", Transient, "rate_limited"),
        (429, "ModelNotReadyException", "not ready", Transient, "rate_limited"),
        (408, "ModelTimeoutException", "too slow", Transient, "timed_out"),
        (424, "ModelErrorException", "the model failed", Transient, "provider_error"),
        (500, "InternalServerException", "we failed", Transient, "provider_error"),
        (503, "ServiceUnavailableException", "later", Transient, "overloaded"),
    ],
)
def test_errors_are_classified_by_their_code_and_not_retried(
    server: BedrockServer,
    opened: Open,
    status: int,
    kind: str,
    words: str,
    error: type[Exception],
    error_class: str,
) -> None:
    server.faults.append(refused(status, kind, words))
    raised = failure(opened(f"bedrock:{TITAN}"))
    assert (type(raised), raised.error_class) == (error, error_class)
    assert raised.cause.endswith(f" {status}: {words}")
    assert len(server.requests) == 1


def test_an_unknown_model_is_refused(server: BedrockServer, opened: Open) -> None:
    error = refusal(opened("bedrock:cohere.embed-unknown"))
    assert (error.error_class, error.of_the_model) == ("not_found", True)
    with pytest.raises(SettingsError, match="does not know how to call"):
        opened("bedrock:meta.llama3")


def test_no_redirect_is_followed(server: BedrockServer, opened: Open) -> None:
    with BedrockServer() as elsewhere:
        server.faults.append(answers(307, {}, location=elsewhere.root))
        error = failure(opened(f"bedrock:{TITAN}"))
        assert not elsewhere.requests
    assert len(server.requests) == 1
    assert " 307" in error.cause


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b'{"embedding": [{}]}', b"{}"])
def test_an_odd_answer_is_a_bad_one(server: BedrockServer, opened: Open, body: bytes) -> None:
    server.faults.append(answers(200, body))
    error = failure(opened(f"bedrock:{TITAN}"))
    assert (type(error), error.error_class) == (Transient, "bad_answer")


def test_a_silent_server_is_not_waited_for(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HostileServer(dripped(b""), drips=True) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", silent.root)
        error = failure(opened(f"bedrock:{TITAN}", embedding_timeout_seconds=0.2))
    assert (type(error), error.error_class) == (Transient, "timed_out")


def test_without_a_server_nothing_is_reached(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:9")
    error = failure(opened(f"bedrock:{TITAN}"))
    assert (type(error), error.error_class) == (Transient, "unreachable")


def test_without_credentials_the_call_is_refused(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = failure(opened(f"bedrock:{TITAN}"))
    assert (type(error), error.error_class) == (ProviderRefused, "unauthorized")
    assert error.cause == "boto3 found no AWS credentials"
    assert error.hint == "Check the AWS credentials, then start again."
    assert not server.requests


def test_the_signature_is_the_one_that_boto3_makes(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-a-session")
    opened(f"bedrock:{TITAN}").embed(["a text"], "document")
    [ours] = server.requests
    at = datetime.strptime(ours.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: at)
    boto3.Session(region_name="eu-central-1").client("bedrock-runtime").invoke_model(
        modelId=TITAN,
        body=json.dumps(ours.body, separators=(",", ":")),
        contentType="application/json",
    )
    its = server.requests[1]
    assert its.path == ours.path
    assert ours.headers["x-amz-security-token"] == "a-token-of-a-session"
    assert its.headers["authorization"] == ours.headers["authorization"]


def test_a_key_of_bedrock_is_sent_as_it_is(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "wrong-0123456789abcdef")
    error = failure(opened(f"bedrock:{TITAN}"))
    assert server.requests[0].bearer == "wrong-0123456789abcdef"
    assert "AWS_BEARER_TOKEN_BEDROCK" in str(error.hint)


def test_without_a_region_or_boto3_it_is_an_error_of_settings(
    server: BedrockServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(SettingsError, match="region") as caught:
        opened(f"bedrock:{TITAN}")
    assert "AWS_REGION" in str(caught.value.hint)
    monkeypatch.setattr(bedrock, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="boto3, which is not installed"):
        opened(f"bedrock:{TITAN}")


def test_many_threads_share_one_client(server: BedrockServer, opened: Open) -> None:
    embedder = opened(f"bedrock:{TITAN}")
    texts = [f"text {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda text: embedder.embed([text], "document"), texts))
    for text, answer in zip(texts, answers, strict=True):
        assert np.allclose(answer.vectors, [vector_for(text, 1024)])
