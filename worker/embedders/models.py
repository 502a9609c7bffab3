"""Facts about models, by name. A model that is not listed works as well: one call finds its width,
and its price is unknown.

Sources, November 2026: OpenAI's model pages and the client's docstrings; the model cards of the
others, as Ollama and Hugging Face name them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`width`: dimensions of its vectors; `tokens`: of the longest text it takes; `price`: US
    dollars for a million tokens, by its own vendor. `shortens`: it can be asked for fewer
    dimensions, down to any number. `by_openai`: it behaves like OpenAI's on every server."""

    width: int | None = None
    tokens: int | None = None
    price: float | None = None
    shortens: bool = False
    by_openai: bool = False


UNKNOWN = ModelInfo()

_QWEN3_SMALL = ModelInfo(1024, 32_768, shortens=True)
_QWEN3_MEDIUM = ModelInfo(2560, 32_768, shortens=True)
_QWEN3_LARGE = ModelInfo(4096, 32_768, shortens=True)

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
}


def known(name: str) -> ModelInfo:
    """Return the facts about a model, also for `organisation/name` and `name:latest`."""
    return MODELS.get(name.lower().rpartition("/")[2].removesuffix(":latest"), UNKNOWN)
