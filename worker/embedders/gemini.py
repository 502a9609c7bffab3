"""`gemini:…`: Google's Gemini API. It truncates long texts silently and cannot be told not to, so
the tokens of each text that may be too long are counted before: one more request for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from urllib.parse import quote

import numpy as np

from worker.embedders.answers import counted, read_json
from worker.embedders.base import Embeddings, Prompts, Role
from worker.embedders.dialects import DIALECTS
from worker.embedders.prompts import NONE
from worker.embedders.vendor import VendorEmbedder
from worker.errors import Rejected
from worker.settings import Settings

MOST_REMEMBERED = 10_000  # texts that were counted, for the tries that follow


class GeminiEmbedder(VendorEmbedder):
    """The model `name` of the Gemini API. Raises SettingsError as VendorEmbedder does."""

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        super().__init__("gemini", DIALECTS["gemini"], name, dimensions, settings, prompts)
        self._tokens: dict[bytes, int] = {}

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        for text in self.prompts.before(texts, role):
            self._check_length(text.encode("utf-8", "replace"))
        embeddings = super().embed(texts, role)
        # Only vectors of the whole width come at unit length (ai.google.dev/gemini-api/docs).
        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(embeddings.vectors, axis=1, keepdims=True)
            vectors = embeddings.vectors / np.where(lengths > 0, lengths, np.float32(1))
        return replace(embeddings, vectors=vectors.astype(np.float32, copy=False))

    def _check_length(self, text: bytes) -> None:
        """Raise Rejected if the model would take only a part of the text."""
        most = self.request_limits.tokens_per_text
        tokens = len(text) if len(text) <= most else self._count(text)  # each has a byte or more
        if tokens > most:
            raise Rejected(
                f"{self._connection.host} counted {tokens} tokens, but the model takes {most}",
                error_class="too_long",
                share=most / tokens,
            )

    def _count(self, text: bytes) -> int:
        digest = sha256(text).digest()
        if digest not in self._tokens:
            body = {"contents": [{"parts": [{"text": text.decode()}]}]}
            reply = self._connection.post(f"/models/{quote(self._name, safe='')}:countTokens", body)
            if len(self._tokens) >= MOST_REMEMBERED:
                self._tokens.clear()
            self._tokens[digest] = self._connection.decode(lambda: _tokens_in(reply.content))
        return self._tokens[digest]


def _tokens_in(content: bytes) -> int:
    """Return the tokens in an answer. Raises ValueError if there are none."""
    match read_json(content):
        case {"totalTokens": total} if (tokens := counted(total)) is not None:
            return tokens
    raise ValueError("no `totalTokens`")
