"""A stand-in for Ollama: its own API, `POST /api/embed`, with models that are pulled already.

    with OllamaServer() as server:
        environment = {"OLLAMA_HOST": server.root}

It answers 400 to nearly all that goes wrong, a runner that crashed included, and cuts what is too
long without a word unless `truncate` is false: so does Ollama.
"""

from __future__ import annotations

import threading

from tests.http_server import Answer, ModelServer, Request, as_json, tokens_in, vector_for

WIDTHS = {
    "nomic-embed-text": 768,
    "all-minilm": 384,
    "qwen3-embedding:0.6b": 1024,
    "qwen3-embedding:8b": 4096,
    "of-your-own": 64,
}
CONTEXT = 2048  # tokens
BUSY = "server busy, please try again.  maximum pending requests exceeded"
CRASHED = 'do embedding request: Post "http://127.0.0.1:35533/embedding": EOF'


class OllamaServer(ModelServer):
    """Ollama at `root`, with a queue of `max_queue` requests."""

    def __init__(self, max_queue: int = 512) -> None:
        super().__init__()
        self.max_queue = max_queue
        self.pulled = dict(WIDTHS)
        """The models that are there, and the widths of their vectors."""
        self.loading_seconds = 0.0
        """How long the first answer takes, while the model is loaded."""
        self._under_way = 0
        self._counting = threading.Lock()

    def answer(self, request: Request) -> Answer | None:
        with self._counting:
            is_full = self._under_way >= self.max_queue
            self._under_way += not is_full
        if is_full:
            self.requests.append(request)
            return _refusal(
                503, "server busy, please try again.  maximum pending requests exceeded"
            )
        try:
            return super().answer(request)
        finally:
            with self._counting:
                self._under_way -= 1

    def due(self, request: Request) -> Answer:
        if (request.method, request.path) != ("POST", "/api/embed"):
            return Answer(404, b"404 page not found", {"content-type": "text/plain"})
        model = str(request.body.get("model")).removesuffix(":latest")
        if model not in self.pulled:
            return _refusal(404, f'model "{model}" not found, try pulling it first')
        self.closing.wait(self.loading_seconds)
        self.loading_seconds = 0.0
        return _embeddings(request, self.pulled[model])

    def stumbled(self, due: Answer) -> Answer:
        return _refusal(400, CRASHED)


def _embeddings(request: Request, native: int) -> Answer:
    texts = request.texts
    if any(tokens_in(text) > CONTEXT for text in texts):
        if request.body.get("truncate") is False:
            return _refusal(400, "the input length exceeds the context length")
        texts = [text.encode()[: 4 * CONTEXT].decode(errors="ignore") for text in texts]
    width = min(request.body.get("dimensions") or native, native)
    return Answer(
        200,
        as_json(
            {
                "model": request.body["model"],
                "embeddings": [vector_for(text, width).tolist() for text in texts],
                "total_duration": 14143917,
                "load_duration": 1019500,
                "prompt_eval_count": sum(map(tokens_in, texts)),
            }
        ),
    )


def _refusal(status: int, words: str) -> Answer:
    return Answer(status, as_json({"error": words}))
