"""A stand-in for Text Embeddings Inference (TEI), with its routes `/info` and `/v1/embeddings`.

    with TEIServer(max_client_batch_size=8) as server:
        environment = {"OPENAI_BASE_URL": server.base_url}

Its errors are flat, its codes are numbers, and each text of a request takes one of its permits.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.http_server import (
    Answer,
    ModelServer,
    Request,
    as_json,
    in_base64,
    tokens_in,
    vector_for,
)

MODEL = "BAAI/bge-small-en-v1.5"
WIDTH = 384
PAYLOAD_LIMIT = 2_000_000  # bytes


@dataclass
class TEIServer(ModelServer):
    """One model at `base_url`, started with these options of TEI's own command line.

    `has_info`: it tells them at `/info`, which what stands before it may hide.
    `refuses_batches_with_413`: as releases before 1.2 do, where newer ones answer 422.
    """

    max_client_batch_size: int = 32
    max_concurrent_requests: int = 512
    max_input_length: int = 512
    auto_truncate: bool = False
    api_key: str | None = None
    has_info: bool = True
    refuses_batches_with_413: bool = False
    _permits: int = field(init=False, default=0)
    _counting: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def answer(self, request: Request) -> Answer | None:
        permits = len(request.texts)
        with self._counting:
            is_full = self._permits + permits > self.max_concurrent_requests
            self._permits += 0 if is_full else permits
        if is_full:
            self.requests.append(request)
            return _refusal(429, "Model is overloaded", "Overloaded")
        try:
            return super().answer(request)
        finally:
            with self._counting:
                self._permits -= permits

    def due(self, request: Request) -> Answer:
        if self.api_key and request.bearer != self.api_key:
            return Answer(401, b"")
        match request.method, request.path:
            case "GET", "/info" if self.has_info:
                return self._info()
            case "POST", "/v1/embeddings":
                return self._wrong_size(request) or self._embeddings(request)
        return Answer(404, b"")

    def stumbled(self, due: Answer) -> Answer:
        return _refusal(424, "CUDA_ERROR_ILLEGAL_ADDRESS", "Backend")

    def _info(self) -> Answer:
        info = {
            "model_id": MODEL,
            "model_type": {"embedding": {"pooling": "cls"}},
            "max_concurrent_requests": self.max_concurrent_requests,
            "max_input_length": self.max_input_length,
            "max_batch_tokens": 16384,
            "max_client_batch_size": self.max_client_batch_size,
            "auto_truncate": self.auto_truncate,
            "version": "1.9.3",
        }
        return Answer(200, as_json(info))

    def _wrong_size(self, request: Request) -> Answer | None:
        most = self.max_client_batch_size
        if request.size > PAYLOAD_LIMIT:
            return Answer(413, b"length limit exceeded", {"content-type": "text/plain"})
        if len(request.texts) > most:
            words = f"batch size {len(request.texts)} > maximum allowed batch size {most}"
            return _refusal(413 if self.refuses_batches_with_413 else 422, words, "Validation")
        if not all(request.texts):
            return _refusal(400, "`inputs` cannot be empty", "Empty")
        longest = max(map(tokens_in, request.texts))
        if longest > self.max_input_length and not self.auto_truncate:
            words = f"`inputs` must have less than {self.max_input_length} tokens. Given: {longest}"
            return _refusal(422, words, "Validation")
        return None

    def _embeddings(self, request: Request) -> Answer:
        most = 4 * self.max_input_length  # bytes
        texts = [text.encode()[:most].decode(errors="ignore") for text in request.texts]
        wants_base64 = request.body.get("encoding_format") == "base64"
        data = []
        for index, text in enumerate(texts):
            vector = vector_for(text, WIDTH)
            embedding = in_base64(vector) if wants_base64 else vector.tolist()
            data.append({"object": "embedding", "embedding": embedding, "index": index})
        tokens = sum(map(tokens_in, texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return Answer(
            200, as_json({"object": "list", "data": data, "model": MODEL, "usage": usage})
        )


def _refusal(status: int, words: str, kind: str) -> Answer:
    return Answer(status, as_json({"message": words, "code": status, "type": kind}))
