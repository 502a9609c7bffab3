"""Opens the embedder of a model by its name, `provider:model`."""

from __future__ import annotations

from collections.abc import Callable

from worker.embedders.addresses import check_address
from worker.embedders.base import LOCAL_MODEL, Embedder
from worker.errors import SettingsError
from worker.settings import Settings


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
            f"Give local:{LOCAL_MODEL}, openai:MODEL, azure:DEPLOYMENT, ollama:MODEL or http:URL;"
            " docs/providers.md has an example of each.",
        )
    if provider == "http":
        check_address(name)


def _open_local(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.local import LocalEmbedder

    return LocalEmbedder()


def _open_openai(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(name, dimensions, settings)


def _open_azure(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.openai import AzureEmbedder

    return AzureEmbedder(name, dimensions, settings)


def _open_ollama(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.ollama import OllamaEmbedder

    return OllamaEmbedder(name, dimensions, settings)


def _open_http(name: str, dimensions: int | None, settings: Settings) -> Embedder:
    from worker.embedders.http import HttpEmbedder

    return HttpEmbedder(name, dimensions, settings)


# Imported when needed: loading a client or a model takes longer than most commands run.
_PROVIDERS: dict[str, Callable[[str, int | None, Settings], Embedder]] = {
    "local": _open_local,
    "openai": _open_openai,
    "azure": _open_azure,
    "ollama": _open_ollama,
    "http": _open_http,
}
