"""`ollama:…`: Ollama by its own API. Its OpenAI-compatible API truncates long texts silently."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.embedders.answers import decode_vector, extract_message, read_json, shared_out, stacked
from worker.embedders.base import (
    Concurrency,
    Embeddings,
    Prompts,
    RequestLimits,
    Role,
    Vectors,
    well_formed,
)
from worker.embedders.connection import Connection, Hints, Reply
from worker.embedders.models import known
from worker.embedders.packing import size_of
from worker.embedders.prompts import NONE
from worker.errors import ProviderRefused, Rejected, Transient
from worker.settings import Settings

# Ollama loads a model from disk at the first request, and unloads it after a time without requests.
KEEP_ALIVE_MINUTES = 30
LOADING_SECONDS = 120.0  # at least
NOT_PULLED = re.compile(r"try pulling it first|model .* not found")
# Ollama also answers 400 if the process that runs the model failed.
CRASHED = re.compile(r"answered 400: .*(\bEOF\b|\bNaN\b|\bconnection\b|\brunner\b)")


@dataclass(slots=True)
class OllamaConnection(Connection):
    """A connection to an Ollama. It waits longer while a model is loaded, and understands what
    Ollama says of errors."""

    loaded_until: float = field(default=0.0, init=False)
    """By time.monotonic."""

    def ask(self, path: str, body: Mapping[str, object], texts: int = 1) -> Reply:
        """Send a request about this many texts, as `post` does."""
        loading = time.monotonic() > self.loaded_until
        seconds = max(self.timeout, LOADING_SECONDS) if loading else self.timeout
        try:
            reply = self.post(path, {**body, "keep_alive": f"{KEEP_ALIVE_MINUTES}m"}, seconds)
        except ProviderRefused as refusal:
            if NOT_PULLED.search(refusal.cause):
                pull = f"ollama pull {body['model']}"
                refusal.hint = f"Run `{pull}` at {self.hints.address}, then start again."
            raise
        except Rejected as refusal:
            if refusal.error_class == "rejected" and CRASHED.search(refusal.cause):
                raise Transient(refusal.cause, of_the_input=True) from None
            if refusal.error_class == "too_large" and texts == 1:
                raise Rejected(refusal.cause, error_class="too_long") from None
            raise
        self.loaded_until = time.monotonic() + KEEP_ALIVE_MINUTES * 60
        return reply


class OllamaEmbedder:
    """The model `name` of the Ollama at OLLAMA_HOST, at the width of the column if the model is
    known to have a smaller one."""

    provider = "ollama"
    price: float | None = 0.0
    request_limits = RequestLimits(items=32, bytes=1_000_000)
    concurrency = Concurrency(first=2, most=8)
    count: Callable[[str], int] | None = None

    def __init__(
        self, name: str, dimensions: int | None, settings: Settings, prompts: Prompts = NONE
    ) -> None:
        self.model = f"{self.provider}:{name}"
        self.prompts = prompts
        self._name = name
        self._connection = OllamaConnection(
            settings.ollama_host,
            None,
            settings.embedding_timeout_seconds,
            Hints(address="OLLAMA_HOST", key=None),
        )
        about = known(name)
        asked = about.width_to_ask_for(dimensions)
        self.dimensions = asked or about.width
        self._more: dict[str, object] = {"dimensions": asked} if asked else {}

    def probe(self) -> None:
        if self.dimensions is None:
            self.dimensions = self._connection.probe(self.embed).vectors.shape[1]

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        prompted = [well_formed(text) for text in self.prompts.before(texts, role)]
        body = {"model": self._name, "input": prompted, "truncate": False, **self._more}
        reply = self._connection.ask("/api/embed", body, len(prompted))
        vectors, tokens = self._connection.decode(lambda: _decoded(reply.content, len(texts)))
        return Embeddings(vectors, shared_out(tokens, [size_of(text) for text in prompted]))

    def close(self) -> None:
        self._connection.close()


def _decoded(content: bytes, count: int) -> tuple[Vectors, object]:
    """Decode the vectors and the token count. Raises ValueError, or another error."""
    answer = read_json(content)
    match answer:
        case {"error": error} if error:
            raise ValueError(f"an error with status 200: {extract_message(error)}")
        case {"embeddings": list(rows)}:
            if len(rows) != count:
                raise ValueError(f"{len(rows)} vectors for {count} texts")
            vectors = stacked([decode_vector(row) for row in rows])
            return vectors, answer.get("prompt_eval_count")
    raise ValueError(f"no list `embeddings` in {extract_message(answer)}")
