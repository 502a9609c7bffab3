"""`http:…`: your own endpoint, such as that of a web application. It receives
`{"text": "…", "role": "document"}`, or "query" for the words of a search, and answers
`{"embedding": […]}`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from worker.embedders.addresses import resolve_address
from worker.embedders.answers import counted, decode_vector, extract_message, read_json, stacked
from worker.embedders.base import (
    Concurrency,
    Embeddings,
    Prompts,
    RequestLimits,
    Role,
    Vectors,
    well_formed,
)
from worker.embedders.connection import Connection, Hints
from worker.embedders.limits import allowances
from worker.embedders.prompts import NONE
from worker.errors import Rejected
from worker.settings import Settings


class HttpEmbedder:
    """The endpoint at the address `name`, or at that path below NEXT_PUBLIC_API_BASE_URL.

    Raises SettingsError if the address is not valid, the environment does not name its host, or a
    header cannot hold the token.
    """

    provider = "http"
    price: float | None = None
    request_limits = RequestLimits(items=1, bytes=1_000_000)
    concurrency = Concurrency(first=4, most=32)
    count: Callable[[str], int] | None = None

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        self.model = f"{self.provider}:{name}"
        self.prompts = prompts
        self.dimensions: int | None = None
        self._address = resolve_address(name, settings)
        self._connection = Connection(
            self._address,
            settings.embedding_api_token,
            settings.embedding_timeout_seconds,
            Hints(
                address="the address in the model's name, or NEXT_PUBLIC_API_BASE_URL",
                key="EMBEDDING_API_TOKEN",
            ),
        )

    def probe(self) -> None:
        if self.dimensions is None:
            self.dimensions = self._connection.probe(self.embed).vectors.shape[1]

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        parts = [self._embed_one(text, role) for text in texts]
        tokens = [part.tokens[0] for part in parts if part.tokens]
        vectors = self._connection.decode(lambda: stacked([part.vectors[0] for part in parts]))
        all_said = len(tokens) == len(texts)
        return Embeddings(vectors, tokens if all_said else None, parts[-1].allowances)

    def _embed_one(self, text: str, role: Role) -> Embeddings:
        [text] = self.prompts.before([text], role)
        body = {"text": well_formed(text), "role": role}
        try:
            reply = self._connection.post(self._address, body)
        except Rejected as refusal:
            if refusal.error_class == "too_large":
                raise Rejected(refusal.cause, error_class="too_long") from None
            raise
        embeddings = self._connection.decode(lambda: _decoded(reply.content))
        return replace(embeddings, allowances=allowances(reply.headers))

    def close(self) -> None:
        self._connection.close()


def _decoded(content: bytes) -> Embeddings:
    """Decode an answer. Raises ValueError, or an error of numpy, if it has no vector."""
    answer = read_json(content)
    tokens = counted(_tokens_in(answer))
    return Embeddings(stacked([_vector_in(answer)]), None if tokens is None else [tokens])


def _vector_in(answer: object) -> Vectors:
    match answer:
        case {"error": error} if error:
            raise ValueError(f"an error with status 200: {extract_message(error)}")
        case (
            {"embedding": list(numbers)}
            | {"data": {"embedding": list(numbers)}}
            | {"data": [{"embedding": list(numbers)}]}
            | {"data": list(numbers)}
            | list(numbers)
        ):
            return decode_vector(numbers)
    raise ValueError(f"no list `embedding` in {extract_message(answer)}")


def _tokens_in(answer: object) -> object:
    match answer:
        case {"usage": {"total_tokens": int(tokens)} | {"prompt_tokens": int(tokens)}} | {
            "tokens": int(tokens)
        }:
            return tokens
    return None
