"""What models would get for the rows of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.chunking.documents import split_document
from worker.embedders.base import Embedder
from worker.embedders.packing import size_of
from worker.engine.asking import text_data
from worker.engine.chats import TOKENS_WRITTEN
from worker.engine.splitting import estimate_tokens
from worker.queue import Chunking, ChunkText, Enhancement, Estimate, Target

BYTES_PER_TOKEN = 4  # in most texts; OpenAI itself estimates so


@dataclass(frozen=True, slots=True)
class Sample:
    """What models would get: `texts` of `bytes` together, of which some are `examples`.

    `asked`: the bytes that a chat model gets, to write for them; `questions`: what it gets, as far
    as that is known.
    """

    texts: float
    bytes: float
    examples: Sequence[str]
    asked: float = 0.0
    questions: Sequence[str] = ()


def sample_of(estimate: Estimate, target: Target, embedder: Embedder) -> Sample:
    """Return what models would get for the sample of an estimate."""
    enhancement = _enhancement(target)
    chunking = _chunking(target)
    if chunking:
        return _of_chunks(estimate, chunking, enhancement, embedder)
    texts, bytes_ = len(estimate.bytes), sum(estimate.bytes)
    if not enhancement:
        return Sample(texts, bytes_, estimate.texts)
    written = texts * TOKENS_WRITTEN * BYTES_PER_TOKEN
    questions = [
        text_data(text)
        for text, size in zip(estimate.texts, estimate.bytes, strict=True)
        if size == size_of(text)
    ]
    return Sample(texts, written, [], bytes_ + texts * size_of(enhancement.prompt), questions)


def texts_given(beginning: str, target: Target, embedder: Embedder) -> list[str]:
    """Return what the model gets for a text, without a prompt: itself or each of its chunks, with
    its context; nothing if a chat model writes what it gets."""
    chunking = _chunking(target)
    if not chunking:
        return [] if target.enhance_model else [beginning]
    document = split_document(beginning, chunking, embedder.count or estimate_tokens)
    return [_given(document.chunk_at(place)) for place in document.places]


def _of_chunks(
    estimate: Estimate, chunking: Chunking, enhancement: Enhancement | None, embedder: Embedder
) -> Sample:
    """Split the texts, as far as they are known: the rest is alike."""
    count = embedder.count or estimate_tokens
    texts, bytes_, asked = 0.0, 0.0, 0.0
    examples, questions = list[str](), list[str]()
    for beginning, length in zip(estimate.texts, estimate.bytes, strict=True):
        document = split_document(beginning, chunking, count, enhancement)
        chunks = [document.chunk_at(place) for place in document.places]
        contents = [_given(chunk) for chunk in chunks]
        scale = length / size_of(beginning)
        texts += scale * len(chunks)
        bytes_ += scale * sum(map(size_of, contents))
        asked += scale * sum(_asked(chunk, enhancement) for chunk in chunks)
        examples += contents
        questions += [chunk.data for chunk in chunks if chunk.data]
    if enhancement:
        bytes_ += texts * TOKENS_WRITTEN * BYTES_PER_TOKEN
    return Sample(texts, bytes_, examples, asked, questions)


def _given(chunk: ChunkText) -> str:
    return (chunk.context or "") + chunk.content


def _asked(chunk: ChunkText, enhancement: Enhancement | None) -> int:
    return size_of(chunk.data or "") + size_of(enhancement.prompt) if enhancement else 0


def _chunking(target: Target) -> Chunking | None:
    """How the texts of a column are split; None: they are not."""
    form, unit = target.chunk_format, target.chunk_unit
    if form is None or unit is None or target.chunk_size is None or target.max_chunks is None:
        return None
    return Chunking(form, target.chunk_size, unit, target.max_chunks)


def _enhancement(target: Target) -> Enhancement | None:
    """How a chat model writes for the texts of a column; None: it does not."""
    if target.enhance_model is None:
        return None
    return Enhancement(target.enhance_model, target.enhance_prompt or "", "wait")
