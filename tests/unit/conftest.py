"""What the tests of models share: they are opened by name, asked, and closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worker.embedders.base import ChatModel, Embedder
from worker.embedders.registry import open_chat_model, open_embedder
from worker.errors import WorkerError
from worker.settings import Settings

Open = Callable[..., Embedder]
OpenChat = Callable[..., ChatModel]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens `provider:model` with these settings, for a column of these dimensions."""
    embedders: list[Embedder] = []

    def opened(model: str, dimensions: int | None = None, **settings: Any) -> Embedder:
        given = {"embedding_timeout_seconds": 5.0} | settings
        embedders.append(open_embedder(model, dimensions, Settings(**given)))
        return embedders[-1]

    yield opened
    for embedder in embedders:
        embedder.close()


@pytest.fixture
def opened_chat() -> Iterator[OpenChat]:
    """Opens the chat model `provider:model` with these settings."""
    models: list[ChatModel] = []

    def opened(model: str, **settings: Any) -> ChatModel:
        given = {"embedding_timeout_seconds": 5.0} | settings
        models.append(open_chat_model(model, Settings(**given)))
        return models[-1]

    yield opened
    for model in models:
        model.close()


def failure(embedder: Embedder, *texts: str) -> Any:
    """The error that `embed` raises."""
    with pytest.raises(WorkerError) as caught:
        embedder.embed(texts or ["a text"], "document")
    assert caught.value.cause.isprintable()
    assert len(caught.value.cause) <= 300
    return caught.value


def refusal(embedder: Embedder) -> Any:
    """The error that `introduce` raises."""
    with pytest.raises(WorkerError) as caught:
        embedder.probe()
    return caught.value


def chat_failure(model: ChatModel, data: str = "the data") -> Any:
    """The error that `answer` raises."""
    with pytest.raises(WorkerError) as caught:
        model.answer("the prompt", data)
    assert caught.value.cause.isprintable()
    assert len(caught.value.cause) <= 300
    return caught.value
