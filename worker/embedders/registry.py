"""Opens the embedder, reranker or chat model of a name, `provider:model`."""

from __future__ import annotations

from collections.abc import Callable

from worker.embedders.addresses import check_address
from worker.embedders.base import LOCAL_MODEL, ChatModel, Embedder, Prompts, Reranker
from worker.embedders.batch_api import BatchApi
from worker.embedders.prompts import chosen_prompts, known_prompts
from worker.errors import SettingsError
from worker.settings import VENDORS, Settings

CHAT_PROVIDERS = ("openai", "ollama")


def open_embedder(
    model: str,
    dimensions: int | None,
    settings: Settings,
    document_prompt: str | None = None,
    query_prompt: str | None = None,
) -> Embedder:
    """The embedder for `provider:model`, for a column of `dimensions` (None: any width).

    A prompt that is None is the model's own. Raises SettingsError if there is no such provider, or
    it lacks a setting or a package.
    """
    check_model(model)
    provider, _, name = model.partition(":")
    prompts = chosen_prompts(own_prompts(model, settings), document_prompt, query_prompt)
    return _PROVIDERS[provider](name, dimensions, settings, prompts)


def own_prompts(model: str, settings: Settings) -> Prompts:
    """Return the prompts that `provider:model` was trained with.

    Raises as `open_embedder` does, if they are in the files of the model.
    """
    provider, _, name = model.partition(":")
    if provider != "sentence-transformers":
        return known_prompts(name)
    from worker.embedders import model_files

    model_files.check_usable(name, settings)
    return model_files.own_prompts(name)


def open_batch_api(
    model: str, dimensions: int | None, settings: Settings, document_prompt: str | None = None
) -> BatchApi:
    """The Batch API for `provider:model`, for a column of `dimensions` (None: any width).

    A prompt that is None is the model's own. Raises SettingsError if the provider has no Batch API,
    or as `open_embedder` does.
    """
    from worker.embedders.openai import OpenAIEmbedder

    provider = model.partition(":")[0]
    if provider == "azure":
        raise SettingsError(
            "Azure's Batch API takes no embedding models, as Microsoft's documentation says",
            "Backfill without --batch-api, or use a model of openai:.",
        )
    if provider in _PROVIDERS and provider != "openai":
        raise SettingsError(
            f"{provider}: has no Batch API that the worker can use",
            "Backfill without --batch-api, or use a model of openai:.",
        )
    embedder = open_embedder(model, dimensions, settings, document_prompt)
    assert isinstance(embedder, OpenAIEmbedder)
    return embedder.batch_api()


def check_model(model: str) -> None:
    """Raise SettingsError unless `provider:model` is one that can be opened, given its settings."""
    provider, _, name = model.partition(":")
    if provider == "http":
        check_address(name)
    is_local = provider == "local"
    if provider not in _PROVIDERS or not name or "#" in name or (is_local and name != LOCAL_MODEL):
        raise SettingsError(
            f"there is no embedding model `{model}`",
            f"Give one like local:{LOCAL_MODEL} or openai:text-embedding-3-small. The providers are"
            f" {', '.join(_PROVIDERS)}: docs/providers.md has an example of each.",
        )


def open_reranker(model: str, settings: Settings) -> Reranker:
    """The reranker for `provider:model`.

    Raises SettingsError if there is no such provider, or it lacks a setting or a package.
    """
    from worker.embedders.model_files import PROVIDER
    from worker.embedders.rerankers import FIELDS, VendorReranker
    from worker.embedders.sentence_transformers import CrossEncoder

    provider, _, name = model.partition(":")
    providers = (*FIELDS, PROVIDER)
    if provider not in providers or not name:
        raise SettingsError(
            f"there is no reranker `{model}`",
            f"Give one of {', '.join(providers)}, like cohere:rerank-v4.0-fast.",
        )
    if provider == PROVIDER:
        return CrossEncoder(name)
    return VendorReranker(provider, name, settings)


def open_chat_model(model: str, settings: Settings) -> ChatModel:
    """The chat model for `provider:model`.

    Raises SettingsError if there is no such provider, or it lacks a setting.
    """
    from worker.embedders.chat_models import OllamaChat, OpenAIChat

    check_chat_model(model)
    provider, _, name = model.partition(":")
    return OpenAIChat(name, settings) if provider == "openai" else OllamaChat(name, settings)


def check_chat_model(model: str) -> None:
    """Raise SettingsError unless `provider:model` is one that can be opened, given its settings."""
    provider, _, name = model.partition(":")
    if provider not in CHAT_PROVIDERS or not name:
        raise SettingsError(
            f"there is no chat model `{model}`",
            f"The providers are {' and '.join(CHAT_PROVIDERS)}. Give one like openai:gpt-4o-mini or"
            " ollama:gemma3:12b.",
        )


def _open_local(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.local import LocalEmbedder

    return LocalEmbedder(prompts, width)


def _open_sentence_transformers(
    name: str, width: int | None, settings: Settings, prompts: Prompts
) -> Embedder:
    from worker.embedders.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(name, width, settings, prompts)


def _open_openai(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(name, width, settings, prompts)


def _open_azure(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.openai import AzureEmbedder

    return AzureEmbedder(name, width, settings, prompts)


def _open_ollama(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.ollama import OllamaEmbedder

    return OllamaEmbedder(name, width, settings, prompts)


def _open_http(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.http import HttpEmbedder

    return HttpEmbedder(name, width, settings, prompts)


def _open_gemini(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.gemini import GeminiEmbedder

    return GeminiEmbedder(name, width, settings, prompts)


def _open_bedrock(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
    from worker.embedders.bedrock import BedrockEmbedder

    return BedrockEmbedder(name, width, settings, prompts)


def _opener(vendor: str) -> Callable[[str, int | None, Settings, Prompts], Embedder]:
    def open_vendor(name: str, width: int | None, settings: Settings, prompts: Prompts) -> Embedder:
        from worker.embedders.dialects import DIALECTS
        from worker.embedders.vendor import VendorEmbedder

        return VendorEmbedder(vendor, DIALECTS[vendor], name, width, settings, prompts)

    return open_vendor


# Imported when needed: loading a client or a model takes longer than most commands run.
_PROVIDERS: dict[str, Callable[[str, int | None, Settings, Prompts], Embedder]] = {
    **{vendor: _opener(vendor) for vendor in VENDORS},  # openai and gemini have their own, below
    "local": _open_local,
    "sentence-transformers": _open_sentence_transformers,
    "openai": _open_openai,
    "azure": _open_azure,
    "gemini": _open_gemini,
    "bedrock": _open_bedrock,
    "ollama": _open_ollama,
    "http": _open_http,
}
