"""`openai:…` and `azure:…`: OpenAI's embeddings API, Azure's, and the servers that speak their
dialect: vLLM, Text Embeddings Inference (TEI), Infinity, LM Studio, LiteLLM, llama.cpp.

Vectors are sent as base64, which takes a fifteenth of the work of JSON numbers. Nothing is assumed
about an unknown server: one whose address and model are both not those of OpenAI.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from worker.embedders.answers import MOST_TOKENS
from worker.embedders.base import Concurrency, Embeddings, Prompts, RequestLimits, Role
from worker.embedders.batch_api import BatchApi
from worker.embedders.connection import Connection, Hints
from worker.embedders.dialects import DIALECTS
from worker.embedders.models import known
from worker.embedders.openai_batches import OpenAIBatchApi
from worker.embedders.prompts import NONE
from worker.embedders.tokens import counter
from worker.embedders.vendor import MOST_AT_ONCE, VendorEmbedder
from worker.errors import ProviderError, ProviderRefused, Rejected, SettingsError, Transient
from worker.settings import Settings

# Every server accepts this: TEI's default is 32 texts, and 2 MB in JSON.
CAREFUL_CAPS = RequestLimits(items=32, bytes=1_000_000)
MOST_ITEMS = 2048
MAY_BE_FOR_BASE64 = {"refused", "provider_error", "bad_answer"}


class OpenAIEmbedder(VendorEmbedder):
    """The model `name`, at the width of the column if the model can be asked for a smaller one.

    Raises SettingsError if there is no usable key, and no server that might need none.
    """

    provider = "openai"

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        super().__init__(self.provider, DIALECTS["openai"], name, dimensions, settings, prompts)
        about = known(name)
        self._fields["encoding_format"] = "base64"
        self._is_unknown_server = bool(settings.openai_base_url) and not about.by_openai
        self._may_grow = self._is_unknown_server
        if about.by_openai:
            self.count = counter()
        if self._is_unknown_server:
            self.dimensions = None  # its name for the model may mean another one: it is probed
            self.request_limits = replace(
                CAREFUL_CAPS, tokens_per_text=self.request_limits.tokens_per_text
            )
            self.concurrency = Concurrency(first=4, most=MOST_AT_ONCE)

    def probe(self) -> None:
        if self._is_unknown_server:
            self._read_info()
        if self.dimensions is None:
            self.dimensions = self._probe_encoding().vectors.shape[1]

    def _read_info(self) -> None:
        """Read the limits that TEI reports; other servers do not have this address."""
        root = self._connection.base_url.rstrip("/").removesuffix("/v1")
        try:
            info = self._connection.get(f"{root}/info")
        except ProviderError:
            return
        match info:
            case {
                "max_client_batch_size": int(items),
                "max_input_length": int(tokens),
                "max_concurrent_requests": int(permits),
            } if min(items, tokens, permits) > 0:
                # A request takes as many permits as it has texts.
                items = min(items, permits, MOST_ITEMS)
                tokens = min(tokens, MOST_TOKENS)
                most = min(permits // items, MOST_AT_ONCE)
                self.request_limits = replace(
                    self.request_limits, items=items, tokens_per_text=tokens
                )
                self.concurrency = Concurrency(min(self.concurrency.first, most), most)
                self._may_grow = False

    def _probe_encoding(self) -> Embeddings:
        """Embed one letter in base64, or as JSON numbers if the server refuses base64."""
        try:
            return self._connection.probe(self.embed)
        except (ProviderRefused, Transient) as refusal:
            if refusal.error_class not in MAY_BE_FOR_BASE64:
                raise
            self._fields["encoding_format"] = "float"
            try:
                return self._connection.probe(self.embed)
            except ProviderError:
                self._fields["encoding_format"] = "base64"
                raise refusal from None

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        embeddings = super().embed(texts, role)
        if self._may_grow and len(texts) >= self.request_limits.items:
            self.request_limits = replace(
                self.request_limits, items=min(2 * self.request_limits.items, MOST_ITEMS)
            )
        return embeddings

    def batch_api(self) -> BatchApi:
        """Return the Batch API for this model, which closes this embedder."""
        return OpenAIBatchApi(self, self._connection)

    def _learn_limits(self, refusal: Rejected, lengths: Sequence[int]) -> Rejected:
        learned = super()._learn_limits(refusal, lengths)
        if learned.error_class == "too_large":
            self._may_grow = False
        return learned


class AzureEmbedder(OpenAIEmbedder):
    """A deployment on Azure. If it is named like a model, the facts about that model apply.

    Raises SettingsError if there is no endpoint or no usable key.
    """

    provider = "azure"

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        super().__init__(name, dimensions, replace(settings, openai_base_url=None), prompts)

    def _connect(self, settings: Settings) -> Connection:
        if not settings.azure_openai_endpoint or not settings.azure_openai_api_key:
            raise SettingsError(
                "AZURE_OPENAI_ENDPOINT or AZURE_OPENAI_API_KEY is not set",
                "Azure's portal shows both, under Keys and Endpoint of the resource.",
            )
        # The portal also shows longer addresses, of a deployment or with a version.
        root = re.sub(r"(?<!/)/openai(/.*)?$|/$", "", settings.azure_openai_endpoint)
        return Connection(
            f"{root}/openai/v1",
            settings.azure_openai_api_key,
            settings.embedding_timeout_seconds,
            Hints(address="AZURE_OPENAI_ENDPOINT", key="AZURE_OPENAI_API_KEY"),
        )
