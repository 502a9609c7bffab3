"""Text in, vectors out: what every provider offers, and the types it speaks in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

LOCAL_MODEL = "wordllama-256"
NO_CAP = sys.maxsize

Vectors = npt.NDArray[np.float32]
Measure = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """What a provider says it allows a minute, of requests or of tokens, and what is left of it.

    `reset`: in how many seconds nothing will be used up of it, if nothing more is asked for.
    """

    limit: float
    remaining: float
    reset: float


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of some texts, shape (texts, dimensions), and how many tokens each text took.

    `tokens` is None where the provider does not say. Where it only says how many a request took,
    they are shared out over its texts by length, and add up to what it said.
    """

    vectors: Vectors
    tokens: list[int] | None
    allowances: Mapping[Measure, RateLimitStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold, and how many tokens one text: all of it at once.

    `bytes` are those of UTF-8. Tokens are those of the model; who cannot count them takes a third
    of the bytes, which is more than most texts have.
    """

    items: int
    bytes: int = NO_CAP
    tokens: int = NO_CAP
    tokens_per_text: int = NO_CAP


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many requests may be under way at once: at `first`, and at `most`."""

    first: int
    most: int


class Embedder(Protocol):
    """A model behind one provider. Used by several threads at once."""

    provider: str
    """Whose limits and troubles it shares with other models, like `openai`."""

    model: str
    """`provider:model`, as stored beside each vector."""

    dimensions: int | None
    """The width of the vectors, or None until `introduce` has asked."""

    price: float | None
    """US dollars for a million tokens, or None if it is not known."""

    request_limits: RequestLimits
    """What a request may hold, as far as is known by now: an answer can teach better."""

    concurrency: Concurrency

    count: Callable[[str], int] | None
    """How many tokens a text has for this model, exactly; None if only the model knows."""

    def probe(self) -> None:
        """Learn what only an answer can tell: the width, the caps. To be called before `embed`.

        Asks nothing if everything is known by name, and otherwise for the vector of one letter.
        Raises ProviderRefused or Transient, and may then be called again.
        """

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed `texts` (one at least, none empty), in their order, in one try.

        Raises ProviderRefused, Transient, or Rejected if the provider refuses the request for
        what is in it; which of several texts is to blame, it does not say.
        """

    def close(self) -> None:
        """Let go of connections and memory. The embedder is not used again."""
