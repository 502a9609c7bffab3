"""`openai:…` and `azure:…`: OpenAI's embeddings API, Azure's, and the servers that speak their
dialect: vLLM, Text Embeddings Inference (TEI), Infinity, LM Studio, LiteLLM, llama.cpp.

Vectors are sent as base64, which takes a fifteenth of the work of JSON numbers. Nothing is assumed
about an unknown server: one whose address and model are both not those of OpenAI.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from worker.embedders.answers import (
    MOST_TOKENS,
    extract_message,
    indexed_vectors,
    number_in,
    read_json,
    shared_out,
)
from worker.embedders.base import Concurrency, Embeddings, Prompts, RequestLimits, Role
from worker.embedders.connection import Connection, Hints
from worker.embedders.limits import allowances
from worker.embedders.models import known
from worker.embedders.prompts import NONE
from worker.embedders.tokens import counter
from worker.errors import ProviderError, ProviderRefused, Rejected, SettingsError, Transient
from worker.settings import Settings

BASE_URL = "https://api.openai.com/v1"
# 2048 texts and 300,000 tokens. OpenAI takes a quarter of the bytes for the number of tokens when
# it looks at a request (timescale/pgai#730), so 1.2 MB would do; tokens proper count as well.
OPENAI_CAPS = RequestLimits(items=2048, bytes=1_000_000, tokens=300_000)
# Every server accepts this: TEI's default is 32 texts, and 2 MB in JSON.
CAREFUL_CAPS = RequestLimits(items=32, bytes=1_000_000)
MOST_ITEMS = 2048
MOST_AT_ONCE = 32  # requests
MAY_BE_FOR_BASE64 = {"refused", "provider_error", "bad_answer"}
# TEI, Infinity. Other rejections for size are about bytes.
TOO_MANY_ITEMS = re.compile(
    r"batch size(?: \d+ > maximum allowed batch size (\d+))?|at most (\d+) items"
)


class OpenAIEmbedder:
    """The model `name`, at the width of the column if the model can be asked for a smaller one.

    Raises SettingsError if there is no usable key, and no server that might need none.
    """

    provider = "openai"

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        self.model = f"{self.provider}:{name}"
        self.prompts = prompts
        self._name = name
        self._connection = self._connect(settings)
        self._is_unknown_server = bool(settings.openai_base_url) and not known(name).by_openai
        self._describe(name, dimensions)

    def _connect(self, settings: Settings) -> Connection:
        if not settings.openai_api_key and not settings.openai_base_url:
            raise SettingsError(
                "OPENAI_API_KEY is not set",
                "Set it, or set OPENAI_BASE_URL to a server that needs no key.",
            )
        return Connection(
            settings.openai_base_url or BASE_URL,
            settings.openai_api_key,
            settings.embedding_timeout_seconds,
            Hints(address="OPENAI_BASE_URL if it is set", key="OPENAI_API_KEY"),
        )

    def _describe(self, name: str, dimensions: int | None) -> None:
        about = known(name)
        self.dimensions = about.width
        self._more: dict[str, object] = {}
        # A width above the native one is not sent: every text would be rejected for it, while
        # comparing `dimensions` with the column reports the error once.
        if about.shortens and about.width and dimensions and dimensions < about.width:
            self.dimensions = self._more["dimensions"] = dimensions
        if self._is_unknown_server:
            self.dimensions = (
                None  # its name for the model may mean another one: the server is probed
            )
        self.price = about.price
        self.request_limits = CAREFUL_CAPS if self._is_unknown_server else OPENAI_CAPS
        if about.tokens:
            self.request_limits = replace(self.request_limits, tokens_per_text=about.tokens)
        self.concurrency = Concurrency(first=4 if self._is_unknown_server else 8, most=MOST_AT_ONCE)
        self.count = counter() if about.by_openai else None
        self._encoding = "base64"
        self._may_grow = self._is_unknown_server

    def probe(self) -> None:
        if self._is_unknown_server:
            self._read_info()
        if self.dimensions is None:
            self.dimensions = self._probe_encoding().vectors.shape[1]

    def _read_info(self) -> None:
        """Read the limits that TEI reports; other servers do not have this address."""
        root = self._connection.base_url.rstrip("/").removesuffix("/v1")
        match self._connection.get(f"{root}/info"):
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
            self._encoding = "float"
            try:
                return self._connection.probe(self.embed)
            except ProviderError:
                self._encoding = "base64"
                raise refusal from None

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        # A lone surrogate, which only the command line can hold, has no UTF-8 and becomes `?`.
        encoded = [text.encode("utf-8", "replace") for text in self.prompts.before(texts, role)]
        lengths = [len(text) for text in encoded]
        body = {"model": self._name, "input": [text.decode() for text in encoded]}
        try:
            reply = self._connection.post(
                "/embeddings", body | self._more | {"encoding_format": self._encoding}
            )
        except Rejected as refusal:
            raise self._learn_limits(refusal, lengths) from None
        embeddings = self._connection.decode(lambda: _decoded(reply.content, lengths))
        if self._may_grow and len(texts) >= self.request_limits.items:
            self.request_limits = replace(
                self.request_limits, items=min(2 * self.request_limits.items, MOST_ITEMS)
            )
        return replace(embeddings, allowances=allowances(reply.headers))

    def _learn_limits(self, refusal: Rejected, lengths: Sequence[int]) -> Rejected:
        """Lower the limits of a request after a rejection for size. Return the error to raise."""
        if refusal.error_class != "too_large":
            return refusal
        if len(lengths) == 1:
            return Rejected(refusal.cause, error_class="too_long")
        if limit := TOO_MANY_ITEMS.search(refusal.cause):
            most = number_in(limit[1] or limit[2]) or len(lengths) // 2
            self.request_limits = replace(
                self.request_limits, items=max(1, min(self.request_limits.items, most))
            )
        else:
            self.request_limits = replace(
                self.request_limits, bytes=min(self.request_limits.bytes, sum(lengths) // 2)
            )
        self._may_grow = False
        return refusal

    def close(self) -> None:
        self._connection.close()


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


def _decoded(content: bytes, lengths: Sequence[int]) -> Embeddings:
    """Decode an answer. Raises ValueError, or another error, if it does not fit the request."""
    answer = read_json(content)
    match answer:
        case {"error": error} if error:
            raise ValueError(f"an error with status 200: {extract_message(error)}")
        case {"data": list(items)}:
            usage = answer.get("usage")
        case _:
            raise ValueError(f"no list `data` in {extract_message(answer)}")
    match usage:
        case {"total_tokens": int(total)} | {"prompt_tokens": int(total)}:
            tokens = shared_out(total, lengths)
        case _:
            tokens = None
    return Embeddings(indexed_vectors(items, len(lengths)), tokens)
