"""Estimates what it takes to fill the new vectors of a re-embedding. It calls no model."""

from __future__ import annotations

from worker.embedders.base import NO_CAP, Embedder
from worker.embedders.models import known
from worker.embedders.packing import size_of
from worker.engine.chats import TOKENS_WRITTEN
from worker.engine.options import TEXTS_A_REQUEST
from worker.operations.estimate import Forecast, forecast_rows
from worker.operations.sampling import BYTES_PER_TOKEN, texts_given
from worker.queue import AdminQueue, Estimate, Target
from worker.reembedding.fill import SampledTexts, TooLong
from worker.settings import Settings


def forecast_fill(
    queue: AdminQueue,
    settings: Settings,
    target: Target,
    sampled: SampledTexts,
    embedder: Embedder,
    batch: int | None,
) -> Forecast | None:
    """Estimate what it takes to embed all texts of a column with another model, which is open.

    None: the texts cannot be read. Raises SettingsError if the chat model cannot be opened.
    """
    if sampled.row_count is None or (sampled.row_count and not sampled.sampled):
        return None
    estimate = Estimate(
        target.table_name,
        target.named_column,
        embedder.model,
        embedder.prompts.document,
        embedder.dimensions,
        sampled.row_count,
        sampled.bytes,
        sampled.texts,
    )
    return forecast_rows(
        queue,
        settings,
        estimate,
        target,
        embedder,
        rows=sampled.row_count,
        sampled=sampled.sampled,
        batch=batch or settings.embedding_batch_size or TEXTS_A_REQUEST,
    )


def too_long_for(embedder: Embedder, target: Target, sampled: SampledTexts) -> TooLong:
    """Return the records of a sample that are too long for a model, and not for the present one.

    If tokens cannot be counted, they are estimated, and a model that takes as many as the present
    one takes the same texts.
    """
    most, is_counted = _longest_text(embedder), embedder.count is not None
    before = known(_name(target.model or "")).tokens
    if most == NO_CAP or (before and before <= most and not is_counted):
        return TooLong([], most, is_counted)
    records = [
        record
        for record, text, size in zip(sampled.record_ids, sampled.texts, sampled.bytes, strict=True)
        if record not in sampled.too_long and _longest(text, size, target, embedder) > most
    ]
    return TooLong(records, most, is_counted)


def _longest_text(embedder: Embedder) -> int:
    """Return the most tokens of a text, with its prompt. NO_CAP: any length, or not known."""
    most = embedder.request_limits.tokens_per_text
    return most if most < NO_CAP else known(_name(embedder.model)).tokens or NO_CAP


def _longest(beginning: str, size: int, target: Target, embedder: Embedder) -> float:
    """Return the tokens of a text of `size` bytes, or those of its longest chunk."""
    given = texts_given(beginning, target, embedder)
    scale = 1.0 if target.chunk_format else size / max(size_of(beginning), 1)
    written = TOKENS_WRITTEN if target.enhance_model else 0
    return max((written + scale * _tokens(embedder, text) for text in given), default=0)


def _tokens(embedder: Embedder, text: str) -> float:
    prompted = embedder.prompts.document + text
    return embedder.count(prompted) if embedder.count else size_of(prompted) / BYTES_PER_TOKEN


def _name(model: str) -> str:
    return model.partition(":")[2]
