"""Texts become vectors: OpenAI's endpoint, and the one of guides for Next.js."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from starlette.exceptions import HTTPException

from worker.errors import SettingsError
from worker.operations.queries import Embedded
from worker.queue import Target
from worker.web.api.bodies import (
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    GenerateAnswer,
    GenerateRequest,
    InputType,
    ModelEntry,
    ModelsAnswer,
    TokensUsed,
)
from worker.web.api.endpoints import Call

BYTES_PER_TOKEN = 4  # about, in most texts


def embed(call: Call) -> EmbeddingsAnswer:
    """Embed texts, in the shape of OpenAI."""
    body: EmbeddingsRequest = call.body
    texts = [body.input] if isinstance(body.input, str) else body.input
    embedded = _embed(call, texts, body.model, body.input_type, body.dimensions)
    tokens = embedded.tokens
    if tokens is None:
        tokens = sum(-(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN) for text in texts)
    if body.encoding_format == "base64":
        vectors: list[list[float] | str] = [
            b64encode(vector.astype("<f4").tobytes()).decode() for vector in embedded.vectors
        ]
    else:
        vectors = [vector.tolist() for vector in embedded.vectors]
    data = [Embedding(index=place, embedding=each) for place, each in enumerate(vectors)]
    usage = TokensUsed(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingsAnswer(data=data, model=body.model, usage=usage)


def generate(call: Call) -> GenerateAnswer:
    """Embed one text."""
    body: GenerateRequest = call.body
    model = body.model or call.shared.services.settings.embedding_model
    [vector] = _embed(call, [body.text], model, body.input_type).vectors
    return GenerateAnswer(embedding=vector.tolist(), dimensions=len(vector), model=model)


def list_models(call: Call) -> ModelsAnswer:
    """List all that `model` may be."""
    models = call.shared.columns.models()
    return ModelsAnswer(data=[ModelEntry(id=name, owned_by=of) for name, of in models.items()])


def show_model(call: Call) -> ModelEntry:
    """Show one of them."""
    name = call.path["name"]
    owner = call.shared.columns.models().get(name)
    if owner is None:
        raise HTTPException(404, "There is no such model. GET /v1/models lists them.")
    return ModelEntry(id=name, owned_by=owner)


def _embed(
    call: Call, texts: Sequence[str], name: str, role: InputType, width: int | None = None
) -> Embedded:
    try:
        model = call.shared.columns.find(name)
    except SettingsError as problem:
        raise HTTPException(404, f"{problem.cause}: {problem.hint}") from None
    if isinstance(model, Target) and width not in (None, model.dimensions):
        raise HTTPException(400, f"dimensions: the column has {model.dimensions}")
    return call.shared.services.queries.embed(texts, model, role, width=width)
