"""Stand-ins for the vendors' paid APIs, each with the fields, limits and errors of its reference.

    with VendorServer("voyage") as server:
        environment = {"VOYAGE_API_KEY": server.key, "VOYAGE_BASE_URL": server.base_url}

A field that the reference does not have is refused. A text that is too long is refused where the
request says so, and truncated silently where it does not, as the vendor does. Not every reference
has the words for a wrong key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.http_server import (
    Answer,
    ModelServer,
    Request,
    as_json,
    in_base64,
    tokens_in,
    vector_for,
)

KEY = "right-9876543210abcdef"
Body = Mapping[str, Any]


@dataclass(frozen=True)
class Vendor:
    """What its reference says. `error` makes the body of an error; `too_long` has its words, of
    the place, the tokens and the limit of a text; `forbids` tells whether a request does not want
    its texts truncated."""

    model: str
    width: int
    tokens: int
    items: int
    base: str
    path: str
    fields: set[str]
    error: Callable[[int, str], Any]
    wrong_key: tuple[int, str]
    too_long: Callable[[int, int, int], str]
    forbids: Callable[[Body], bool]
    dimensions: str | None = None
    roles: Mapping[str, set[str]] = field(default_factory=dict)
    tokens_per_request: int = 10**9


VENDORS = {
    "voyage": Vendor(
        model="voyage-4-lite",
        width=1024,
        tokens=32_000,
        items=1000,
        tokens_per_request=1_000_000,
        base="/v1",
        path="/v1/embeddings",
        fields={"input_type", "truncation", "output_dimension", "output_dtype", "encoding_format"},
        roles={"input_type": {"document", "query"}},
        dimensions="output_dimension",
        error=lambda status, words: {"detail": words},
        wrong_key=(401, "Provided API key is invalid."),
        too_long=lambda place, tokens, limit: (
            "Request to model 'voyage-4-lite' failed. The example at index"
            f" {place} in your batch has too many tokens and does not fit into the model's context"
            f" window of {limit} tokens. Please lower the number of tokens in the listed"
            " example(s) or use truncation."
        ),
        forbids=lambda body: body.get("truncation") is False,
    ),
    "mistral": Vendor(
        model="mistral-embed",
        width=1024,
        tokens=8192,
        items=256,
        tokens_per_request=16_384,
        base="/v1",
        path="/v1/embeddings",
        fields={"metadata", "output_dimension", "output_dtype", "encoding_format"},
        dimensions="output_dimension",
        error=lambda status, words: (
            {"detail": words}
            if status == 401
            else {"object": "error", "message": words, "type": "invalid_request_error"}
        ),
        wrong_key=(401, "Unauthorized"),
        too_long=lambda place, tokens, limit: (
            f"Input id {place} has {tokens} tokens, exceeding max {limit} tokens."
        ),
        forbids=lambda body: True,
    ),
    "jina": Vendor(
        model="jina-embeddings-v3",
        width=1024,
        tokens=8192,
        items=512,
        base="/v1",
        path="/v1/embeddings",
        fields={"task", "dimensions", "normalized", "late_chunking", "truncate", "embedding_type"},
        roles={"task": {"retrieval.passage", "retrieval.query"}},
        dimensions="dimensions",
        error=lambda status, words: {"detail": words},
        wrong_key=(401, "Invalid API key"),
        # The reference only says that there is an error; these words are made up.
        too_long=lambda place, tokens, limit: f"Input {place} exceeds the model's context length",
        forbids=lambda body: not body.get("truncate"),
    ),
    "gemini": Vendor(
        model="gemini-embedding-001",
        width=3072,
        tokens=2048,
        items=100,
        base="/v1beta",
        path="/v1beta/models/gemini-embedding-001:batchEmbedContents",
        fields={"taskType", "title", "outputDimensionality"},
        roles={"taskType": {"RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY"}},
        dimensions="outputDimensionality",
        error=lambda status, words: {
            "error": {"code": status, "message": words, "status": "INVALID_ARGUMENT"}
        },
        wrong_key=(400, "API key not valid. Please pass a valid API key."),
        too_long=lambda place, tokens, limit: "",
        forbids=lambda body: False,
    ),
    "cohere": Vendor(
        model="embed-v4.0",
        width=1536,
        tokens=128_000,
        items=96,
        base="/v2",
        path="/v2/embed",
        fields={"input_type", "output_dimension", "embedding_types", "max_tokens", "truncate"},
        roles={"input_type": {"search_document", "search_query"}},
        dimensions="output_dimension",
        error=lambda status, words: {"id": "made-up", "message": words},
        wrong_key=(401, "invalid api token"),
        # The reference has this for prompts; for embeddings it shows no example.
        too_long=lambda place, tokens, limit: (
            f"too many tokens: total number of tokens cannot exceed {limit} - received {tokens}."
        ),
        forbids=lambda body: body.get("truncate") == "NONE",
    ),
    "nvidia": Vendor(
        model="nvidia/nv-embedqa-e5-v5",
        width=1024,
        tokens=512,
        items=50,
        base="/v1",
        path="/v1/embeddings",
        fields={"input_type", "encoding_format", "truncate", "dimensions", "user"},
        roles={"input_type": {"passage", "query"}},
        dimensions="dimensions",
        error=lambda status, words: {"error": words} if status == 400 else {"detail": words},
        wrong_key=(401, "Authentication failed"),
        too_long=lambda place, tokens, limit: (
            f"Input length {tokens} exceeds maximum allowed token size {limit}"
        ),
        forbids=lambda body: body.get("truncate", "NONE") == "NONE",
    ),
    "together": Vendor(
        model="intfloat/multilingual-e5-large-instruct",
        width=1024,
        tokens=512,
        items=32,
        base="/v1",
        path="/v1/embeddings",
        fields=set(),
        error=lambda status, words: {
            "error": {"message": words, "type": "invalid_request_error", "code": None}
        },
        wrong_key=(
            401,
            "Invalid API key provided. You can find your API key at https://api.together.ai/settings/api-keys.",
        ),
        too_long=lambda place, tokens, limit: "",
        forbids=lambda body: False,
    ),
}


# A model, the fields of a request, the name of the results, and what is charged.
RERANKERS: dict[str, tuple[str, set[str], str, Body]] = {
    "cohere": (
        "rerank-v4.0-fast",
        {"top_n", "max_tokens_per_doc"},
        "results",
        {"meta": {"billed_units": {"search_units": 1}}},
    ),
    "voyage": (
        "rerank-2.5",
        {"top_k", "return_documents", "truncation"},
        "data",
        {"usage": {"total_tokens": 1000}},
    ),
    "jina": (
        "jina-reranker-m0",
        {"top_n", "return_documents"},
        "results",
        {"usage": {"total_tokens": 1000}},
    ),
}


class VendorServer(ModelServer):
    """The API of a vendor at `base_url`, for its `key`."""

    def __init__(self, name: str, key: str = KEY) -> None:
        super().__init__()
        self.name = name
        self.vendor = VENDORS[name]
        self.key = key

    @property
    def base_url(self) -> str:
        return self.root + self.vendor.base

    @property
    def roles(self) -> list[str | None]:
        """The role that each request gave to its texts, in the words of the vendor."""
        [name] = self.vendor.roles or [""]
        return [_options(request.body).get(name) for request in self._embeddings()]

    @property
    def sent(self) -> list[list[str]]:
        """The texts of each request."""
        return [request.texts for request in self._embeddings()]

    def _embeddings(self) -> list[Request]:
        return [request for request in self.requests if request.path == self.vendor.path]

    def due(self, request: Request) -> Answer:
        key = request.headers.get("x-goog-api-key") if self.name == "gemini" else request.bearer
        if key != self.key:
            return self._refusal(*self.vendor.wrong_key)
        if self.name == "gemini" and request.path.endswith(":countTokens"):
            text = request.body["contents"][0]["parts"][0]["text"]
            return Answer(200, as_json({"totalTokens": tokens_in(text)}))
        if self.name in RERANKERS and request.path == f"{self.vendor.base}/rerank":
            return self._reranked(request)
        if request.path != self.vendor.path:
            return self._refusal(404, f"nothing is at {request.path}")
        return self._wrong_options(request) or self._wrong_size(request) or self._vectors(request)

    def stumbled(self, due: Answer) -> Answer:
        return self._refusal(500, "internal error")

    def _wrong_options(self, request: Request) -> Answer | None:
        options = _options(request.body)
        if unknown := options.keys() - self.vendor.fields - {"model", "content"}:
            return self._refusal(422, f"unknown fields: {', '.join(sorted(unknown))}")
        for name, values in self.vendor.roles.items():
            if options.get(name) not in values:
                return self._refusal(400, f"{name} must be one of {', '.join(sorted(values))}")
        if options["model"].removeprefix("models/") != self.vendor.model:
            return self._refusal(404, f"model {options['model']} does not exist")
        return None

    def _wrong_size(self, request: Request) -> Answer | None:
        vendor = self.vendor
        tokens = [tokens_in(text) for text in request.texts]
        if len(tokens) > vendor.items:
            return self._refusal(400, f"Batch size is too large: at most {vendor.items} items")
        if vendor.forbids(_options(request.body)) and max(tokens) > vendor.tokens:
            place = tokens.index(max(tokens))
            return self._refusal(400, vendor.too_long(place, max(tokens), vendor.tokens))
        if sum(tokens) > vendor.tokens_per_request:
            return self._refusal(400, "Too many tokens overall, split into more batches.")
        return None

    def _vectors(self, request: Request) -> Answer:
        vendor, options = self.vendor, _options(request.body)
        width = options.get(vendor.dimensions or "") or vendor.width
        # What is longer than the model takes is silently left out.
        texts = [
            text.encode()[: 4 * vendor.tokens].decode(errors="ignore") for text in request.texts
        ]
        vectors = [vector_for(text, width) for text in texts]
        asks_base64 = "base64" in (
            options.get("encoding_format"),
            options.get("embedding_type"),
            *options.get("embedding_types", ()),
        )
        coded = [in_base64(vector) if asks_base64 else vector.tolist() for vector in vectors]
        total = sum(map(tokens_in, texts))
        return Answer(200, as_json(self._written(coded, total)))

    def _reranked(self, request: Request) -> Answer:
        """Score each document by how many words of the query it has, best first."""
        body, (model, fields, results, units) = request.body, RERANKERS[self.name]
        if unknown := body.keys() - fields - {"model", "query", "documents"}:
            return self._refusal(422, f"unknown fields: {', '.join(sorted(unknown))}")
        if body["model"] != model:
            return self._refusal(404, f"model {body['model']} does not exist")
        words = set(body["query"].lower().split())
        scores = [
            len(words & set(text.lower().split())) / max(len(words), 1)
            for text in body["documents"]
        ]
        items = [
            {"index": index, "relevance_score": score}
            for index, score in sorted(enumerate(scores), key=lambda item: -item[1])
        ]
        return Answer(200, as_json({results: items, **units}))

    def _written(self, coded: list[Any], total: int) -> Any:
        if self.name == "gemini":
            # Shorter vectors are not of unit length: they are the beginning of the whole one.
            return {"embeddings": [{"values": [3 * x for x in each]} for each in coded]}
        if self.name == "cohere":
            return {
                "id": "made-up",
                "embeddings": {"base64": coded},
                "meta": {"billed_units": {"input_tokens": total}},
            }
        data = [
            {"object": "embedding", "index": index, "embedding": each}
            for index, each in enumerate(coded)
        ]
        answer = {"object": "list", "data": data, "model": self.vendor.model}
        usage = {"total_tokens": total}
        return answer if self.name == "together" else answer | {"usage": usage}

    def _refusal(self, status: int, words: str) -> Answer:
        return Answer(status, as_json(self.vendor.error(status, words)))


def _options(body: Body) -> Body:
    """The fields of a request, without its texts."""
    [first, *_] = body.get("requests", [body])
    return {name: value for name, value in first.items() if name not in ("input", "texts")}
