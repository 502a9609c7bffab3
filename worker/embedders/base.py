"""The interfaces of embedders, rerankers and chat models, and their types."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

LOCAL_MODEL = "wordllama-256"
NO_CAP = sys.maxsize
A_LETTER = "a"  # the text of a probe

Vectors = npt.NDArray[np.float32]
Measure = Literal["requests", "tokens"]
Role = Literal["document", "query"]
"""What a text is: one that is stored to be found, or what somebody searches for."""


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """The rate limit per minute that a provider reports, for requests or tokens, and what is left.

    `reset`: seconds until the whole limit is available again, without further requests.
    """

    limit: float
    remaining: float
    reset: float


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a model gets before each text, by its role. Empty: nothing."""

    document: str
    query: str

    def of(self, role: Role) -> str:
        """Return the prompt of a role."""
        return self.document if role == "document" else self.query

    def before(self, texts: Sequence[str], role: Role) -> list[str]:
        """Return the texts with the prompt of their role in front."""
        prompt = self.of(role)
        return [prompt + text for text in texts] if prompt else list(texts)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of some texts, shape (texts, dimensions), and how many tokens each text took.

    `tokens` is None if the provider does not report them. If it reports only the total of a
    request, the total is distributed over the texts by length.
    """

    vectors: Vectors
    tokens: list[int] | None
    allowances: Mapping[Measure, RateLimitStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one request, and the most tokens of one text. All of them apply at once.

    `bytes` are those of UTF-8. Tokens are those of the model; where they cannot be counted, a third
    of the bytes is used, which is more than most texts have.
    """

    items: int
    bytes: int = NO_CAP
    tokens: int = NO_CAP
    tokens_per_text: int = NO_CAP


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many requests may be in flight at once: at `first`, and at `most`."""

    first: int
    most: int


@dataclass(frozen=True, slots=True)
class ChatPrice:
    """US dollars for a million tokens that a chat model reads, and for a million that it writes."""

    read: float
    written: float


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What a chat model wrote, and how many tokens it read and wrote; None if it does not say."""

    text: str
    read: int | None
    written: int | None
    allowances: Mapping[Measure, RateLimitStatus] = field(default_factory=dict)


class Embedder(Protocol):
    """A model behind one provider. Used by several threads at once."""

    provider: str
    """The name of the provider, like `openai`. Its models share limits and outages."""

    model: str
    """`provider:model`."""

    prompts: Prompts
    """What `embed` puts before texts."""

    dimensions: int | None
    """The width of the vectors, or None until `probe` has found it."""

    price: float | None
    """US dollars for a million tokens, or None if it is not known."""

    request_limits: RequestLimits
    """The limits of a request as far as they are known; an answer can correct them."""

    concurrency: Concurrency

    count: Callable[[str], int] | None
    """Counts the tokens of a text for this model, exactly; None if only the model can."""

    def probe(self) -> None:
        """Find out what only an answer shows: the width and the limits. Call this before `embed`.

        If the name of the model tells everything, nothing is sent; else one letter is embedded.
        Raises ProviderRefused or Transient, and may then be called again.
        """

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        """Embed `texts` (one at least, none empty), in their order, in one try.

        Each gets the prompt of its role in front, or the request names the role.

        Raises ProviderRefused, Transient, or Rejected if the provider rejects the content of the
        request; it does not say which of several texts is the cause.
        """

    def close(self) -> None:
        """Release connections and memory. The embedder is not used again."""


class Reranker(Protocol):
    """A model that judges how well texts answer a query, behind one provider."""

    provider: str
    """The name of the provider, like `cohere`."""

    model: str
    """`provider:model`."""

    spent: float | None
    """US dollars that its answers cost so far, or None if that is not known."""

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return a score for each of `texts`, in their order: the higher, the better it answers.

        Raises ProviderRefused, Transient or Rejected.
        """

    def close(self) -> None:
        """Release connections and memory. The reranker is not used again."""


class ChatModel(Protocol):
    """A model that writes a text about what it is given. Used by several threads at once."""

    provider: str
    """Like `openai chat`: its limits and outages are not those of the embedding models."""

    model: str
    """`provider:model`."""

    price: ChatPrice | None
    """None if it is not known."""

    concurrency: Concurrency

    def answer(self, prompt: str, data: str) -> ChatAnswer:
        """Return what the model writes about `data` by the instructions of `prompt`.

        The text has no control characters but line breaks, and 2000 characters at most. Raises
        ProviderRefused, Transient, or Rejected, also if the answer has no visible text.
        """

    def close(self) -> None:
        """Release connections. The chat model is not used again."""


def well_formed(text: str) -> str:
    """Return a text with `?` for each lone surrogate, which has no UTF-8. Only the command line can
    hold one."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cost_of(tokens: int | None, price: float | None) -> float | None:
    """Return US dollars, at a price for a million tokens; None if one of them is not known and the
    price is not zero."""
    if price == 0.0:
        return 0.0
    return None if tokens is None or price is None else tokens * price / 1e6


def chat_cost(answer: ChatAnswer, price: ChatPrice | None) -> float | None:
    """Return US dollars for an answer of a chat model; None if its tokens or price are unknown."""
    if price is None or answer.read is None or answer.written is None:
        return None
    return (answer.read * price.read + answer.written * price.written) / 1e6


def full_model(embedder: Embedder) -> str:
    """The full name of a model, as stored beside each vector: `provider:model`, and if it gets a
    prompt before each document, `#` and the prompt."""
    return with_prompt(embedder.model, embedder.prompts.document)


def with_prompt(model: str, document_prompt: str) -> str:
    """The full name of `provider:model`, if this is what it gets before each document."""
    return f"{model}#{document_prompt}" if document_prompt else model
