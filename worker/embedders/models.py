"""Facts about models, by name. A model that is not listed works as well: one call finds its width,
and its price is unknown.

Sources, November 2026: the model pages, price lists and client docstrings of the vendors; the
model cards of the others, as Ollama and Hugging Face name them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from worker.embedders.base import ChatPrice


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`width`: dimensions of its vectors; `tokens`: of the longest text it takes; `price`: US
    dollars for a million tokens, by its own vendor. `shortens`: it can be asked for fewer
    dimensions, down to any number; `widths`: it can be asked for these instead. `has_roles`: its
    vendor's API takes the role of a text, if it takes any. `by_openai`: it behaves like OpenAI's
    on every server."""

    width: int | None = None
    tokens: int | None = None
    price: float | None = None
    shortens: bool = False
    widths: tuple[int, ...] = ()
    has_roles: bool = True
    by_openai: bool = False

    def width_to_ask_for(self, column: int | None) -> int | None:
        """Return the dimensions to request for a `column` that is this wide; None: request none.

        A width that the model does not offer is not asked for: every text would be rejected for
        it, while comparing `dimensions` with the column reports the error once.
        """
        if column is None or column == self.width:
            return None
        is_shorter = self.shortens and self.width is not None and column < self.width
        return column if is_shorter or column in self.widths else None


UNKNOWN = ModelInfo()

_QWEN3_SMALL = ModelInfo(1024, 32_768, shortens=True)
_QWEN3_MEDIUM = ModelInfo(2560, 32_768, shortens=True)
_QWEN3_LARGE = ModelInfo(4096, 32_768, shortens=True)
_VOYAGE_WIDTHS = (256, 512, 1024, 2048)
_COHERE_4_WIDTHS = (256, 512, 1024, 1536)
_COHERE_5_WIDTHS = (256, 512, 768, 1024, 1536, 2048)
_JINA_WIDTHS = (32, 64, 128, 256, 512, 768, 1024)
_NEMOTRON_WIDTHS = (384, 512, 768, 1024, 2048)

# Without an organisation before the name, in lower case.
MODELS = {
    "text-embedding-3-small": ModelInfo(1536, 8191, price=0.02, shortens=True, by_openai=True),
    "text-embedding-3-large": ModelInfo(3072, 8191, price=0.13, shortens=True, by_openai=True),
    "text-embedding-ada-002": ModelInfo(1536, 8191, price=0.10, by_openai=True),
    "qwen3-embedding:0.6b": _QWEN3_SMALL,
    "qwen3-embedding:4b": _QWEN3_MEDIUM,
    "qwen3-embedding:8b": _QWEN3_LARGE,
    "qwen3-embedding-0.6b": _QWEN3_SMALL,
    "qwen3-embedding-4b": _QWEN3_MEDIUM,
    "qwen3-embedding-8b": _QWEN3_LARGE,
    "embeddinggemma": ModelInfo(768, 2048),
    "nomic-embed-text": ModelInfo(768),
    "mxbai-embed-large": ModelInfo(1024, 512),
    "bge-m3": ModelInfo(1024, 8192),
    "all-minilm": ModelInfo(384, 256),
    "all-minilm-l6-v2": ModelInfo(384),
    # docs.voyageai.com: /docs/embeddings, /docs/pricing
    "voyage-4-large": ModelInfo(1024, 32_000, price=0.12, widths=_VOYAGE_WIDTHS),
    "voyage-4": ModelInfo(1024, 32_000, price=0.06, widths=_VOYAGE_WIDTHS),
    "voyage-4-lite": ModelInfo(1024, 32_000, price=0.02, widths=_VOYAGE_WIDTHS),
    "voyage-3-large": ModelInfo(1024, 32_000, price=0.18, widths=_VOYAGE_WIDTHS),
    "voyage-3.5": ModelInfo(1024, 32_000, price=0.06, widths=_VOYAGE_WIDTHS),
    "voyage-3.5-lite": ModelInfo(1024, 32_000, price=0.02, widths=_VOYAGE_WIDTHS),
    "voyage-code-3": ModelInfo(1024, 32_000, price=0.18, widths=_VOYAGE_WIDTHS),
    "voyage-finance-2": ModelInfo(1024, 32_000, price=0.12),
    "voyage-law-2": ModelInfo(1024, 16_000, price=0.12),
    # docs.mistral.ai: the model pages; codestral-embed has 1536 dimensions unless asked for others
    "mistral-embed": ModelInfo(1024, 8192, price=0.10),
    "codestral-embed": ModelInfo(1536, 8192, price=0.15, shortens=True, widths=(3072,)),
    # jina.ai/models; the price depends on what was bought
    "jina-embeddings-v5-text-small": ModelInfo(1024, 32_768, widths=_JINA_WIDTHS),
    "jina-embeddings-v5-text-nano": ModelInfo(768, 8192, widths=_JINA_WIDTHS[:-1]),
    "jina-embeddings-v4": ModelInfo(2048, 32_768, widths=(128, 256, 512, 1024)),
    "jina-embeddings-v3": ModelInfo(1024, 8192, widths=_JINA_WIDTHS),
    # The second version knows no task.
    "jina-embeddings-v2-base-en": ModelInfo(768, 8192, has_roles=False),
    "jina-embeddings-v2-base-de": ModelInfo(768, 8192, has_roles=False),
    "jina-embeddings-v2-base-es": ModelInfo(768, 8192, has_roles=False),
    "jina-embeddings-v2-base-zh": ModelInfo(768, 8192, has_roles=False),
    "jina-embeddings-v2-base-code": ModelInfo(768, 8192, has_roles=False),
    # ai.google.dev/gemini-api/docs: /embeddings, /pricing; the second takes its role as a prompt
    "gemini-embedding-001": ModelInfo(3072, 2048, price=0.15, shortens=True),
    "gemini-embedding-2": ModelInfo(3072, 8192, price=0.20, shortens=True, has_roles=False),
    # docs.cohere.com/docs/cohere-embed, cohere.com/pricing
    "embed-v5.0-pro": ModelInfo(2048, 128_000, price=0.12, widths=_COHERE_5_WIDTHS),
    "embed-v5.0-fast": ModelInfo(2048, 128_000, price=0.08, widths=_COHERE_5_WIDTHS),
    "embed-v4.0": ModelInfo(1536, 128_000, price=0.12, widths=_COHERE_4_WIDTHS),
    "embed-english-v3.0": ModelInfo(1024, 512, price=0.10),
    "embed-multilingual-v3.0": ModelInfo(1024, 512, price=0.10),
    "embed-english-light-v3.0": ModelInfo(384, 512, price=0.10),
    "embed-multilingual-light-v3.0": ModelInfo(384, 512, price=0.10),
    # docs.nvidia.com/nim/nemo-retriever: the support matrix
    "llama-nemotron-embed-1b-v2": ModelInfo(2048, 8192, widths=_NEMOTRON_WIDTHS),
    "nv-embedqa-e5-v5": ModelInfo(1024, 512),
    # docs.together.ai; the card of the model
    "multilingual-e5-large-instruct": ModelInfo(1024, 512),
    # docs.aws.amazon.com/bedrock: model-parameters-titan-embed-text and -embed-v3, -embed-v4
    "amazon.titan-embed-text-v2:0": ModelInfo(1024, 8192, price=0.02, widths=(256, 512)),
    "cohere.embed-v4:0": ModelInfo(1536, 128_000, price=0.12, widths=_COHERE_4_WIDTHS),
    "cohere.embed-english-v3": ModelInfo(1024, 512, price=0.10),
    "cohere.embed-multilingual-v3": ModelInfo(1024, 512, price=0.10),
}


# openai.com/api/pricing, November 2026, for text that is in no cache and in no batch
CHAT_PRICES = {
    "gpt-4o-mini": ChatPrice(0.15, 0.60),
    "gpt-4o": ChatPrice(2.50, 10.00),
    "gpt-4o-2024-05-13": ChatPrice(5.00, 15.00),  # all other versions with a date cost the same
    "gpt-4.1": ChatPrice(2.00, 8.00),
    "gpt-4.1-mini": ChatPrice(0.40, 1.60),
    "gpt-4.1-nano": ChatPrice(0.10, 0.40),
    "gpt-5": ChatPrice(1.25, 10.00),
    "gpt-5-mini": ChatPrice(0.25, 2.00),
    "gpt-5-nano": ChatPrice(0.05, 0.40),
}


def chat_price(name: str) -> ChatPrice | None:
    """Return the price of a chat model of OpenAI, also for `organisation/name` and a name with a
    date; None if it is not known."""
    model = name.lower().rpartition("/")[2]
    undated = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
    return CHAT_PRICES.get(model) or CHAT_PRICES.get(undated)


def known(name: str) -> ModelInfo:
    """Return the facts about a model, also for `organisation/name` and `name:latest`, and for an
    inference profile of Bedrock."""
    model = name.lower().rpartition("/")[2].removesuffix(":latest")
    return MODELS.get(without_region(model), UNKNOWN)


def without_region(name: str) -> str:
    """Return the name of a model of Bedrock without the regions in front, as in `us.cohere.…`."""
    return re.sub(r"^[a-z-]+\.(?=(?:amazon|cohere)\.)", "", name)
