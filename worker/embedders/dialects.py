"""The HTTP APIs of the vendors, as data: `voyage:`, `mistral:`, `jina:`, `gemini:`, `cohere:`,
`nvidia:`, `together:`, and that of OpenAI itself.

Each was read in the vendor's own reference and client in November 2026; the comments name them.
No text is truncated silently. Requests forbid it; Gemini's API has no field for that, so the worker
counts the tokens of long texts first. Together does not document what it does with a long text:
docs/providers.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.embedders.answers import (
    decode_vector,
    extract_message,
    indexed_vectors,
    stacked,
)
from worker.embedders.base import RequestLimits, Role, Vectors

Fields = Mapping[str, object]


def write_openai(model: str, texts: Sequence[str], fields: Fields) -> Fields:
    """The body of a request as OpenAI defined it."""
    return {"model": model, "input": texts, **fields}


def read_openai(answer: object, count: int) -> tuple[Vectors, object]:
    """Return the vectors and the tokens of an answer. Raises ValueError, or an error of numpy."""
    match answer:
        case {"data": list(items)}:
            vectors = indexed_vectors(items, count)
        case _:
            raise ValueError(f"no list `data` in {extract_message(answer)}")
    match answer:
        case {"usage": {"total_tokens": int(total)} | {"prompt_tokens": int(total)}}:
            return vectors, total
    return vectors, None


def write_cohere(model: str, texts: Sequence[str], fields: Fields) -> Fields:
    """The body of a request to Cohere's /v2/embed."""
    return {"model": model, "texts": texts, **fields}


def read_cohere(answer: object, count: int) -> tuple[Vectors, object]:
    """The same as `read_openai`, for Cohere. Its vectors have no index: they are in order."""
    match answer:
        case {"embeddings": {"base64": list(rows)} | {"float": list(rows)}}:
            vectors = _in_order(rows, count)
        case _:
            raise ValueError(f"no list `embeddings` in {extract_message(answer)}")
    match answer:
        case {"meta": {"billed_units": {"input_tokens": int(total)}}}:
            return vectors, total
    return vectors, None


def write_gemini(model: str, texts: Sequence[str], fields: Fields) -> Fields:
    """The body of a request to Gemini's batchEmbedContents: one request for each text."""
    name = f"models/{model}"
    return {
        "requests": [
            {"model": name, "content": {"parts": [{"text": text}]}, **fields} for text in texts
        ]
    }


def read_gemini(answer: object, count: int) -> tuple[Vectors, object]:
    """The same as `read_openai`, for Gemini. Its vectors have no index: they are in order."""
    match answer:
        case {"embeddings": list(items)}:
            rows = [item.get("values") if isinstance(item, dict) else None for item in items]
            vectors = _in_order(rows, count)
        case _:
            raise ValueError(f"no list `embeddings` in {extract_message(answer)}")
    match answer:
        case {"usageMetadata": {"promptTokenCount": int(total)}}:
            return vectors, total
    return vectors, None


def _in_order(rows: Sequence[object], count: int) -> Vectors:
    if len(rows) != count:
        raise ValueError(f"{len(rows)} vectors for {count} texts")
    if not all(isinstance(row, str | list) for row in rows):
        raise ValueError("an item that is no vector")
    return stacked([decode_vector(row) for row in rows if isinstance(row, str | list)])


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a vendor's API is called.

    `path` may contain {model}; `role` is the field for the role of the texts, with its values
    `document` and `query`; `width` is the field for the dimensions. `fixed` is in every request: it
    forbids truncation, and asks for base64. `key_header` is for a key that is no bearer token.
    """

    base_url: str
    limits: RequestLimits
    path: str = "/embeddings"
    key_header: str | None = None
    role: str | None = None
    document: str = ""
    query: str = ""
    width: str | None = "dimensions"
    fixed: Fields = field(default_factory=dict)
    write: Callable[[str, Sequence[str], Fields], Fields] = write_openai
    read: Callable[[object, int], tuple[Vectors, object]] = read_openai

    def role_fields(self, role: Role) -> Fields:
        """Return the field for a role, or nothing."""
        value = self.document if role == "document" else self.query
        return {self.role: value} if self.role else {}


BASE64 = {"encoding_format": "base64"}

DIALECTS: dict[str, Dialect] = {
    # 2048 texts and 300,000 tokens. OpenAI takes a quarter of the bytes for the number of tokens
    # when it looks at a request (timescale/pgai#730), so 1.2 MB would do; tokens proper count too.
    "openai": Dialect(
        base_url="https://api.openai.com/v1",
        limits=RequestLimits(items=2048, bytes=1_000_000, tokens=300_000),
    ),
    # docs.voyageai.com/reference/embeddings-api; voyageai 0.5.0 asks for base64 as well. A text
    # that is too long would be truncated by default. The smallest limit of all models: 120,000.
    "voyage": Dialect(
        base_url="https://api.voyageai.com/v1",
        limits=RequestLimits(items=1000, bytes=1_000_000, tokens=120_000),
        role="input_type",
        document="document",
        query="query",
        width="output_dimension",
        fixed=BASE64 | {"truncation": False},
    ),
    # docs.mistral.ai/api/endpoint/embeddings, mistralai 3.7.0. It rejects long texts by itself, has
    # no roles, and states no limits: 257 texts were refused (rig-core's comment, measured), and
    # 16,384 tokens ("Too many tokens in batch. Max is 16384", aurelio-labs/semantic-router#297).
    "mistral": Dialect(
        base_url="https://api.mistral.ai/v1",
        limits=RequestLimits(items=256, bytes=1_000_000, tokens=16_000),
        width="output_dimension",
        fixed=BASE64,
    ),
    # api.jina.ai/openapi.json. "Each input list can contain at most 512 items" for the fourth
    # version (langgenius/dify-official-plugins#1997); 2048 for the third (refly-ai/refly#831).
    "jina": Dialect(
        base_url="https://api.jina.ai/v1",
        limits=RequestLimits(items=512, bytes=1_000_000),
        role="task",
        document="retrieval.passage",
        query="retrieval.query",
        fixed={"embedding_type": "base64", "truncate": False},
    ),
    # ai.google.dev/api/embeddings; its OpenAI-compatible endpoint has no field for the role. 100
    # texts ("at most 100 requests can be in one batch", geldata/gel#9032) and 4 MB of JSON, where
    # a byte takes up to six. It truncates silently, and cannot be told not to (google-genai 3.6.1
    # refuses `auto_truncate` for it): gemini.py counts the tokens of long texts.
    "gemini": Dialect(
        base_url="https://generativelanguage.googleapis.com/v1beta",
        limits=RequestLimits(items=100, bytes=500_000, tokens_per_text=2048),
        path="/models/{model}:batchEmbedContents",
        key_header="x-goog-api-key",
        role="taskType",
        document="RETRIEVAL_DOCUMENT",
        query="RETRIEVAL_QUERY",
        width="outputDimensionality",
        write=write_gemini,
        read=read_gemini,
    ),
    # docs.cohere.com/reference/embed, cohere 7.3.1: the native endpoint, which requires the role.
    "cohere": Dialect(
        base_url="https://api.cohere.com/v2",
        limits=RequestLimits(items=96, bytes=1_000_000),
        path="/embed",
        role="input_type",
        document="search_document",
        query="search_query",
        width="output_dimension",
        fixed={"embedding_types": ["base64"], "truncate": "NONE"},
        write=write_cohere,
        read=read_cohere,
    ),
    # docs.nvidia.com/nim/nemo-retriever/text-embedding/2.2.0/reference.html, for NVIDIA's own
    # servers and for a NIM of one's own. The number of texts is not documented: 50 is careful.
    "nvidia": Dialect(
        base_url="https://integrate.api.nvidia.com/v1",
        limits=RequestLimits(items=50, bytes=1_000_000),
        role="input_type",
        document="passage",
        query="query",
        fixed=BASE64 | {"truncate": "NONE"},
    ),
    # docs.together.ai, together 3.1.1: a model and texts, and nothing else. Neither the number of
    # texts nor what happens to a long one is documented.
    "together": Dialect(
        base_url="https://api.together.ai/v1",
        limits=RequestLimits(items=32, bytes=1_000_000),
        width=None,
    ),
}
