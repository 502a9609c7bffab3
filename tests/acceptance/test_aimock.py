"""The command line against a mock that nobody here wrote, also where the mock misbehaves by chance.

Its own answer of Ollama is that of an API which Ollama has given up: what it passes on from a
stand-in, with the same misbehaviour, is not.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import pytest

from tests.acceptance.conftest import WIDTH, fill, statuses
from tests.aimock import NO_AIMOCK, aimock, aimock_is_here
from tests.conftest import IN_CI, Database, Worker, rest_in_full, rows
from tests.ollama_server import OllamaServer
from tests.openai_server import vector_for
from worker.embedders.base import ChatModel
from worker.embedders.registry import open_chat_model, open_embedder
from worker.errors import ProviderRefused, Transient
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not aimock_is_here() and not IN_CI, reason=NO_AIMOCK)

NOTES = 120
RUNS = 10  # of `worker process`, at most
CALM: list[str] = []
LIMITS = ["--chaos-ratelimit", "0.15"]
CHAOS = [*LIMITS, "--chaos-drop", "0.1", "--chaos-malformed", "0.1", "--chaos-disconnect", "0.1"]

OPENAI = "openai:text-embedding-3-small"
AZURE = "azure:text-embedding-3-small"
OLLAMA = "ollama:qwen3-embedding:0.6b"


@contextmanager
def mocked(model: str, options: list[str]) -> Iterator[dict[str, str]]:
    """The environment in which the mock is the server of the model."""
    with ExitStack() as servers:
        if model == OLLAMA:
            behind = servers.enter_context(OllamaServer())
            options = [*options, "--proxy-only", "--provider-ollama", behind.root]
        root = servers.enter_context(aimock(*options))
        yield {
            "EMBEDDING_MODEL": model,
            "EMBEDDING_BATCH_SIZE": "10",
            "OPENAI_BASE_URL": f"{root}/v1",
            "AZURE_OPENAI_API_KEY": "0123456789abcdef",
            "AZURE_OPENAI_ENDPOINT": root,
            "OLLAMA_HOST": root,
            "MISTRAL_BASE_URL": f"{root}/v1",
            "COHERE_BASE_URL": f"{root}/v2",
        }


def made_up(texts: list[str], width: int) -> list[list[float]]:
    """The vectors that the mock gives to these texts."""
    asked = {"model": "text-embedding-3-small", "input": texts, "dimensions": width}
    with aimock() as root:
        request = urllib.request.Request(f"{root}/v1/embeddings", json.dumps(asked).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            items = json.loads(answer.read())["data"]
    return [item["embedding"] for item in items]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        pytest.param(OPENAI, CALM, id="openai-calm", marks=pytest.mark.only_in_full),
        pytest.param(OPENAI, CHAOS, id="openai-chaos"),
        pytest.param(AZURE, CALM, id="azure-calm", marks=pytest.mark.only_in_full),
        pytest.param(AZURE, CHAOS, id="azure-chaos", marks=pytest.mark.only_in_full),
        pytest.param(OLLAMA, CALM, id="ollama-calm"),
        pytest.param(OLLAMA, CHAOS, id="ollama-chaos", marks=pytest.mark.only_in_full),
    ],
)
def test_every_row_has_the_vector_of_its_text_in_the_end(
    notes: Database, worker: Worker, model: str, options: list[str]
) -> None:
    fill(notes, NOTES)
    with mocked(model, options) as environment:
        texts, vectors = embedded(notes, worker, environment)
    is_ours = model == OLLAMA
    right = [vector_for(text, WIDTH) for text in texts] if is_ours else made_up(texts, WIDTH)
    assert np.allclose(vectors, right, atol=1e-6)


# The mock always gives these widths. It speaks Cohere's dialect, and for all others OpenAI's.
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(CALM, id="calm"),
        pytest.param(CHAOS, id="chaos", marks=pytest.mark.only_in_full),
    ],
)
@pytest.mark.parametrize(
    ("model", "width"),
    rest_in_full([("cohere:embed-v4.0", 1024), ("mistral:codestral-embed", 1536)]),
)
def test_every_row_has_the_vector_of_its_text_from_a_vendor(
    db: Database, worker: Worker, model: str, width: int, options: list[str]
) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    with mocked(model, options) as environment:
        column = ["--column", "embedding", "--create-column", "--dimensions", str(width)]
        result = worker("watch", "notes", "--source", "body", *column, **environment)
        assert result.returncode == 0, result.stderr
        fill(db, NOTES)
        texts, vectors = embedded(db, worker, environment)
    assert np.allclose(vectors, made_up(texts, width), atol=1e-6)


def embedded(
    db: Database, worker: Worker, environment: dict[str, str]
) -> tuple[list[str], list[list[float]]]:
    """Run the worker until all rows have a vector. Return their texts and vectors."""
    for _ in range(RUNS):
        worker("process", **environment)
        if statuses(db) == {"completed": NOTES}:
            break
        db.execute("update embedding_queue set available_at = now()")
    assert statuses(db) == {"completed": NOTES}
    found = rows(db, "select body, embedding::real[] from notes order by id")
    return [body for body, _ in found], [vector for _, vector in found]


def test_an_answer_of_another_api_than_was_asked_is_never_taken() -> None:
    with aimock() as root:
        embedder = open_embedder(OLLAMA, WIDTH, Settings(ollama_host=root))
        with pytest.raises(Transient, match="no list `embeddings` in") as caught:
            embedder.embed(["first", "second"], "document")
        embedder.close()
    assert caught.value.error_class == "bad_answer"


CHAT = [{"match": {"userMessage": '"the data"'}, "response": {"content": "A note\non\tdata. "}}]


@pytest.mark.parametrize("model", ["openai:gpt-4o-mini", "ollama:gemma3:12b"])
def test_a_chat_model_answers_and_its_misbehaviour_has_the_class_of_its_kind(model: str) -> None:
    with aimock(fixtures=CHAT) as root, asking(model, root) as chat:
        answer = chat.answer("Describe it.", '{"text": "the data"}')
        assert answer.text == "A note\non data."
        with pytest.raises(ProviderRefused, match="answered 404"):
            chat.answer("Describe it.", "what no fixture knows")
    for fault, error_class in (
        ("ratelimit", "rate_limited"),
        ("drop", "provider_error"),
        ("malformed", "bad_answer"),
        ("disconnect", "unreachable"),
    ):
        with aimock(f"--chaos-{fault}", "1", fixtures=CHAT) as root, asking(model, root) as chat:
            with pytest.raises(Transient) as caught:
                chat.answer("Describe it.", '{"text": "the data"}')
            assert caught.value.error_class == error_class


@contextmanager
def asking(model: str, root: str) -> Iterator[ChatModel]:
    """The chat model whose server is at this address."""
    settings = Settings(openai_base_url=f"{root}/v1", ollama_llm_base_url=root)
    with closing(open_chat_model(model, settings)) as chat:
        yield chat
