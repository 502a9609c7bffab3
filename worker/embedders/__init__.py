"""Text in, vectors out. One file a provider, each the only importer of its client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.errors import SettingsError
from worker.settings import Settings

LOCAL_MODEL = "wordllama-256"

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of some texts, shape (texts, dimensions), and how many tokens each text took.

    `tokens` is None where the provider does not say. Where it only says how many a request took,
    they are shared out over its texts by length, and add up to what it said.
    """

    vectors: Vectors
    tokens: list[int] | None


class Embedder(Protocol):
    """A model behind one provider. Used by several threads at once."""

    model: str
    """`provider:model`, as stored beside each vector."""

    dimensions: int | None
    """The width of the vectors, or None if only an answer will tell."""

    max_items: int
    """How many texts one request may hold."""

    concurrency: int
    """How many requests may be under way at once."""

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` (one at least, none empty), in their order, in one try.

        Raises ProviderRefused, Transient, or Rejected if the provider refuses the request for
        what is in it; which of several texts is to blame, it does not say.
        """

    def close(self) -> None:
        """Let go of connections and memory. The embedder is not used again."""


def open_embedder(model: str, dimensions: int | None, settings: Settings) -> Embedder:
    """The embedder for `provider:model`, for a column of `dimensions` (None: any width).

    Raises SettingsError if there is no such provider, or it lacks a setting or a package.
    """
    check_model(model)
    provider, _, name = model.partition(":")
    return _PROVIDERS[provider](name, dimensions, settings)


def check_model(model: str) -> None:
    """Raise SettingsError unless `provider:model` is one that can be opened, given its settings."""
    provider, _, name = model.partition(":")
    if provider not in _PROVIDERS or not name or (provider == "local" and name != LOCAL_MODEL):
        raise SettingsError(
            f"there is no embedding model `{model}`",
            f"Give local:{LOCAL_MODEL}, or openai:MODEL for OpenAI and servers like it.",
        )


def _open_local(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.local import LocalEmbedder

    return LocalEmbedder()


def _open_openai(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(name, dimensions, settings)


# Imported when wanted: loading a client or a model takes longer than most commands run.
_PROVIDERS: dict[str, Callable[[str, int | None, Settings], Embedder]] = {
    "local": _open_local,
    "openai": _open_openai,
}
