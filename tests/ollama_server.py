"""A stand-in for Ollama: its own API, `POST /api/embed` and `POST /api/chat`, with models that are
pulled already.

    with OllamaServer() as server:
        environment = {"OLLAMA_HOST": server.root}

It answers 400 to nearly all that goes wrong, a runner that crashed included, and cuts what is too
long without a word unless `truncate` is false: so does Ollama.
"""

from __future__ import annotations

import threading
from typing import Any

from tests.http_server import (
    Answer,
    ModelServer,
    Request,
    as_json,
    text_for,
    tokens_in,
    vector_for,
)

WIDTHS = {
    "nomic-embed-text": 768,
    "all-minilm": 384,
    "qwen3-embedding:0.6b": 1024,
    "qwen3-embedding:8b": 4096,
    "of-your-own": 64,
}
# The chat models, and how many tokens each spends on thinking.
CHAT_MODELS = {"gemma3:12b": 0, "qwen3:8b": 1500}
CONTEXT = 2048  # tokens
BUSY = "server busy, please try again.  maximum pending requests exceeded"
CRASHED = 'do embedding request: Post "http://127.0.0.1:35533/embedding": EOF'


class OllamaServer(ModelServer):
    """Ollama at `root`, with a queue of `max_queue` requests."""

    def __init__(self, max_queue: int = 512) -> None:
        super().__init__()
        self.max_queue = max_queue
        self.pulled = WIDTHS | dict.fromkeys(CHAT_MODELS, 0)
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
        if request.method != "POST" or request.path not in ("/api/embed", "/api/chat"):
            return Answer(404, b"404 page not found", {"content-type": "text/plain"})
        model = str(request.body.get("model")).removesuffix(":latest")
        if model not in self.pulled:
            return _refusal(404, f'model "{model}" not found, try pulling it first')
        self.closing.wait(self.loading_seconds)
        self.loading_seconds = 0.0
        if request.path == "/api/chat":
            return _chat(request, model)
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


def _chat(request: Request, model: str) -> Answer:
    if model not in CHAT_MODELS:
        return _refusal(400, f'"{model}" does not support chat')
    options = request.body.get("options", {})
    context, limit = options.get("num_ctx", CONTEXT), options.get("num_predict", CONTEXT)
    prompt, data = request.texts
    if tokens_in(prompt) + tokens_in(data) > context:
        if request.body.get("truncate") is False:
            return _refusal(400, "the input length exceeds the context length")
        data = data.encode()[-4 * (context - tokens_in(prompt)) :].decode(errors="ignore")
    thinks = request.body.get("think") is not False
    thought = min(CHAT_MODELS[model] if thinks else 0, limit)
    text = text_for(prompt, data)
    is_cut = thought + tokens_in(text) > limit
    text = text.encode()[: 4 * (limit - thought)].decode(errors="ignore")
    body = chat_answer(text, "length" if is_cut else "stop")
    if thought:
        body["message"]["thinking"] = "Let me see."
    body["prompt_eval_count"] = tokens_in(prompt) + tokens_in(data)
    body["eval_count"] = thought + tokens_in(text)
    return Answer(200, as_json(body))


def chat_answer(text: str, done_reason: str = "stop") -> dict[str, Any]:
    """The body of an answer of a chat model."""
    return {
        "model": "made-up",
        "created_at": "2026-11-30T12:00:00Z",
        "message": {"role": "assistant", "content": text},
        "done": True,
        "done_reason": done_reason,
        "prompt_eval_count": 9,
        "eval_count": 9,
    }


def _refusal(status: int, words: str) -> Answer:
    return Answer(status, as_json({"error": words}))
