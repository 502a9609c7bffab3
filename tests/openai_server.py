"""A stand-in for the paid HTTP API: OpenAI's embeddings and chat endpoints, as documented, on this
machine.

    with OpenAIServer() as server:
        server.faults += [rate_limited(**{"retry-after": "2"}), hang]
        client = OpenAI(base_url=server.base_url, api_key=server.api_key)

It refuses what OpenAI refuses, in OpenAI's words, and misbehaves on request: each entry of
`faults` spoils one answer. Tokens are counted as a quarter of the UTF-8 bytes, which is how OpenAI
itself counts them against the limit of a request; its tokenizer cannot be had offline.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from tests.http_server import (
    Answer,
    Fault,
    ModelServer,
    Request,
    Vector,
    answers,
    as_json,
    cut_short,
    from_base64,
    hang,
    in_base64,
    not_json,
    text_for,
    tokens_in,
    vector_for,
)

# Whoever speaks with this server finds all they need here.
__all__ = [
    "MAX_ITEMS",
    "MAX_TOKENS_PER_REQUEST",
    "MAX_TOKENS_PER_TEXT",
    "Answer",
    "Fault",
    "OpenAIServer",
    "Request",
    "Vector",
    "answers",
    "as_lists",
    "completion",
    "cut_short",
    "error_with_status_200",
    "hang",
    "not_a_number",
    "not_json",
    "out_of_quota",
    "rate_limited",
    "server_error",
    "text_for",
    "tokens_in",
    "too_few_items",
    "unavailable",
    "vector_for",
    "with_items",
    "with_vectors",
    "without_usage",
    "wrong_order",
    "wrong_width",
    "zeros",
]

WIDTHS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
# The chat models, and how many tokens each spends on its reasoning.
CHAT_MODELS = {"gpt-4o-mini": 0, "gpt-4.1-nano": 0, "gpt-5-mini": 1500}
CHAT_CONTEXT = 128_000
CHAT = "/v1/chat/completions"
MAX_ITEMS = 2048
MAX_TOKENS_PER_TEXT = 8192
MAX_TOKENS_PER_REQUEST = 300_000
INVALID_INPUT = (
    "'$.input' is invalid. Please check the API reference: "
    "https://platform.openai.com/docs/api-reference."
)


# Faults that stand in for the answer.


def rate_limited(**headers: str) -> Fault:
    message = "Rate limit reached for text-embedding-3-small in organization org-x on requests"
    return answers(429, _error(message, "requests", "rate_limit_exceeded"), **headers)


def out_of_quota(due: Answer) -> Answer:
    message = "You exceeded your current quota, please check your plan and billing details."
    return Answer(429, as_json(_error(message, "insufficient_quota", "insufficient_quota")))


def server_error(due: Answer) -> Answer:
    message = "The server had an error while processing your request. Sorry about that!"
    return Answer(500, as_json(_error(message, "server_error")))


def unavailable(due: Answer) -> Answer:
    message = "The engine is currently overloaded, please try again later"
    return Answer(503, as_json(_error(message, "server_error")))


def error_with_status_200(due: Answer) -> Answer:
    """As some gateways do when the server behind them fails."""
    return Answer(200, as_json(_error("upstream connect error", "server_error")))


# Faults that spoil the answer.


def without_usage(due: Answer) -> Answer:
    body = json.loads(due.body)
    del body["usage"]
    return replace(due, body=as_json(body))


def with_items(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Fault:
    def fault(due: Answer) -> Answer:
        body = json.loads(due.body)
        return replace(due, body=as_json(body | {"data": change(body["data"])}))

    return fault


def with_vectors(change: Callable[[Vector], Vector]) -> Fault:
    def changed(item: dict[str, Any]) -> dict[str, Any]:
        return item | {"embedding": in_base64(change(from_base64(item["embedding"])))}

    return with_items(lambda items: [changed(item) for item in items])


wrong_width = with_vectors(lambda vector: vector[:-1])
not_a_number = with_vectors(lambda vector: np.append(vector[:-1], np.float32("nan")))
zeros = with_vectors(np.zeros_like)
too_few_items = with_items(lambda items: items[:-1])
wrong_order = with_items(lambda items: items[::-1])
as_lists = with_items(
    lambda items: [item | {"embedding": from_base64(item["embedding"]).tolist()} for item in items]
)
"""A server that does not know of base64."""


class OpenAIServer(ModelServer):
    """The API at `base_url`, with an allowance of `rpm` requests a minute if one is given.

    `rpm`, `burst` and `silent` can be changed while it runs. At most `burst` requests are
    allowed at once, a tenth of a minute's if it is not given, and they come back at an even pace;
    those that are refused use up nothing. A server that is `silent` says nothing of its limits, in
    headers or in words.
    """

    def __init__(
        self,
        api_key: str = "sk-test-Zk3vQ8mW1xT6yB0cR5nHd7Lp",
        *,
        rpm: float | None = None,
        burst: float | None = None,
        silent: bool = False,
    ) -> None:
        super().__init__()
        self.api_key = api_key
        self.rpm = rpm
        self.burst = burst
        self.silent = silent
        self.accepted: list[float] = []
        """When each request came that was within the allowance, by `time.monotonic`."""
        self.refused: list[float] = []
        """When each came that was not."""
        self.reject: Callable[[str], bool] | None = None
        """A request holding such a text is refused, without a word on which it is."""
        self._request_numbers = count(1)
        self._left = float("inf")  # of the allowance, at the moment `_seen`
        self._seen = time.monotonic()
        self._counting = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def headers(self) -> dict[str, str]:
        mine = {"x-request-id": f"req_{next(self._request_numbers):032x}"}
        return super().headers() | mine | ({} if self.silent else self._limits())

    def _limits(self) -> dict[str, str]:
        of_tokens = {
            "x-ratelimit-limit-tokens": "1000000",
            "x-ratelimit-remaining-tokens": "999000",
            "x-ratelimit-reset-tokens": "60ms",
        }
        if self.rpm is None:
            return of_tokens | {
                "x-ratelimit-limit-requests": "3000",
                "x-ratelimit-remaining-requests": "2999",
                "x-ratelimit-reset-requests": "20ms",
            }
        with self._counting:
            left = self._refilled(self.rpm)
            used = self._capacity(self.rpm) - left
        return of_tokens | {
            "x-ratelimit-limit-requests": f"{self.rpm:.0f}",
            "x-ratelimit-remaining-requests": f"{int(left)}",
            "x-ratelimit-reset-requests": f"{used * 60_000 / self.rpm:.0f}ms",
        }

    def due(self, request: Request) -> Answer:
        refusal = self._wrong_key(request) or _wrong_path(request) or self._over_the_limit(request)
        if refusal:
            return refusal
        if request.path == CHAT:
            return _wrong_chat(request) or self._rejected(request) or _completion(request)
        return (
            _wrong_model(request)
            or _wrong_input(request)
            or self._rejected(request)
            or _embeddings(request)
        )

    def stumbled(self, due: Answer) -> Answer:
        return server_error(due)

    def _wrong_key(self, request: Request) -> Answer | None:
        key = request.bearer
        if not key:
            return _refusal(401, "You didn't provide an API key.")
        if key == self.api_key:
            return None
        return _refusal(
            401,
            f"Incorrect API key provided: {_masked(key)}. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )

    def _over_the_limit(self, request: Request) -> Answer | None:
        rpm = self.rpm
        if rpm is None:
            self._left = float("inf")
            self.accepted.append(time.monotonic())
            return None
        with self._counting:
            self._left = left = self._refilled(rpm)
            if left >= 1:
                self._left -= 1
                self.accepted.append(self._seen)
                return None
            self.refused.append(self._seen)
        return self._too_many(request, rpm, (1 - left) * 60_000 / rpm)

    def _too_many(self, request: Request, rpm: float, milliseconds: float) -> Answer:
        words = f"Rate limit reached for {request.body.get('model')} in organization org-x"
        headers = {}
        if not self.silent:
            wait = int(milliseconds) + 1
            words += f" on requests per min (RPM): Limit {rpm:.0f}. Please try again in {wait}ms."
            headers["retry-after-ms"] = str(wait)
        error = _error(words, "requests", "rate_limit_exceeded")
        return Answer(429, as_json(error), headers)

    def _refilled(self, rpm: float) -> float:
        """What is left of the allowance by now. For those who hold the lock."""
        now = time.monotonic()
        self._left = min(self._capacity(rpm), self._left + (now - self._seen) * rpm / 60)
        self._seen = now
        return self._left

    def _capacity(self, rpm: float) -> float:
        return max(1.0, rpm / 10 if self.burst is None else self.burst)

    def _rejected(self, request: Request) -> Answer | None:
        if self.reject is None or not any(map(self.reject, request.texts)):
            return None
        return _refusal(400, INVALID_INPUT)


def _wrong_path(request: Request) -> Answer | None:
    if request.path in ("/v1/embeddings", CHAT):
        return None
    return _refusal(404, f"Invalid URL ({request.method} {request.path})")


def _no_such_model(model: object) -> Answer:
    return _refusal(
        404,
        f"The model `{model}` does not exist or you do not have access to it.",
        code="model_not_found",
    )


def _wrong_chat(request: Request) -> Answer | None:
    """What a chat is refused for. A model that reasons takes only the newer name of the limit, and
    no temperature of its own."""
    body, model = request.body, request.body.get("model")
    if model in WIDTHS:
        return _refusal(404, "This is not a chat model and thus not supported in this endpoint.")
    if model not in CHAT_MODELS:
        return _no_such_model(model)
    if CHAT_MODELS[model] and "max_tokens" in body:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
            " 'max_completion_tokens' instead."
        )
        return _refusal(400, message, code="unsupported_parameter", param="max_tokens")
    if CHAT_MODELS[model] and body.get("temperature", 1) != 1:
        message = (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default"
            " (1) value is supported."
        )
        return _refusal(400, message, code="unsupported_value", param="temperature")
    tokens = sum(map(tokens_in, request.texts))
    if tokens <= CHAT_CONTEXT:
        return None
    return _refusal(
        400,
        f"This model's maximum context length is {CHAT_CONTEXT} tokens. However, your messages"
        f" resulted in {tokens} tokens. Please reduce the length of the messages.",
        code="context_length_exceeded",
        param="messages",
    )


def _completion(request: Request) -> Answer:
    body = request.body
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or CHAT_CONTEXT
    reasoning = min(CHAT_MODELS[body["model"]], limit)
    text = text_for(*request.texts)
    is_cut = reasoning + tokens_in(text) > limit
    text = text.encode()[: 4 * (limit - reasoning)].decode(errors="ignore")
    read, written = sum(map(tokens_in, request.texts)), reasoning + tokens_in(text)
    return Answer(200, as_json(completion(text, "length" if is_cut else "stop", read, written)))


def completion(
    text: str | None, finish_reason: str = "stop", read: int = 9, written: int = 9
) -> dict[str, Any]:
    """The body of an answer of a chat model."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-made-up",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }


def _wrong_model(request: Request) -> Answer | None:
    model, dimensions = request.body.get("model"), request.body.get("dimensions")
    if model not in WIDTHS:
        return _no_such_model(model)
    if dimensions is None:
        return None
    if not model.startswith("text-embedding-3-"):
        return _refusal(400, "This model does not support specifying dimensions.")
    if not 1 <= dimensions <= WIDTHS[model]:
        return _refusal(400, f"Invalid value for 'dimensions': at most {WIDTHS[model]}.")
    return None


def _wrong_input(request: Request) -> Answer | None:
    texts = request.texts
    if not 1 <= len(texts) <= MAX_ITEMS or not all(text and type(text) is str for text in texts):
        return _refusal(400, INVALID_INPUT)
    tokens = [tokens_in(text) for text in texts]
    if sum(tokens) > MAX_TOKENS_PER_REQUEST:
        limit = "max_tokens_per_request"
        message = f"Requested {sum(tokens)} tokens, max {MAX_TOKENS_PER_REQUEST} tokens per request"
        return _refusal(400, message, kind=limit, code=limit)
    if max(tokens) > MAX_TOKENS_PER_TEXT:
        return _refusal(
            400,
            f"This model's maximum context length is {MAX_TOKENS_PER_TEXT} tokens, however you "
            f"requested {max(tokens)} tokens ({max(tokens)} in your prompt; 0 for the completion)."
            " Please reduce your prompt; or completion length.",
        )
    return None


def _embeddings(request: Request) -> Answer:
    model = request.body["model"]
    width = request.body.get("dimensions") or WIDTHS[model]
    wants_base64 = request.body.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(request.texts):
        vector = vector_for(text, width)
        embedding = in_base64(vector) if wants_base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(map(tokens_in, request.texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(200, as_json({"object": "list", "data": data, "model": model, "usage": usage}))


def _refusal(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
) -> Answer:
    return Answer(status, as_json(_error(message, kind, code, param)))


def _error(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _masked(key: str) -> str:
    # OpenAI repeats both ends of a wrong key, and a short one whole.
    return key if len(key) < 12 else key[:8] + "*" * (len(key) - 12) + key[-4:]
