"""Estimates how much there is to embed, and what it will take, without calling a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeVar

from worker.embedders.base import ChatAnswer, Embedder, RequestLimits, chat_cost, cost_of
from worker.embedders.packing import size_of, tokens_at_most
from worker.embedders.registry import open_chat_model, open_embedder
from worker.engine.chats import TOKENS_WRITTEN
from worker.engine.options import TEXTS_A_REQUEST
from worker.operations.sampling import BYTES_PER_TOKEN, Sample, sample_of
from worker.operations.session import select
from worker.queue import AdminQueue, Estimate, Target, enhancement_key
from worker.settings import Settings

SAMPLE = 200  # rows at most, of each column

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate of what it takes to embed a column. None: not known.

    `texts` that a model gets for `rows`: a row that needs no call has none, and one in chunks has
    one for each chunk. `tokens`, `requests` and `cost` are those of the model, and of the chat
    model that writes for the texts if there is one. `cost` in US dollars; `seconds` for one worker,
    by what was measured with the model in the last week, and by the limits of the settings.
    """

    column: str
    model: str
    rows: int | None
    texts: int
    tokens: int
    requests: int
    cost: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Estimation:
    """The columns that were asked for, and a forecast for each that is worked on."""

    targets: list[Target]
    forecasts: list[Forecast]


def estimate(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None = None,
    column: str | None = None,
    missing: bool = False,
    batch_size: int | None = None,
    limit: int | None = None,
) -> Estimation:
    """Estimate what it takes to embed all that is due.

    With `missing`, all that a backfill would enqueue. Calls no model. Raises SettingsError if a
    model with rows to embed cannot be opened.
    """
    selection = select(queue, table, column)
    estimates = queue.estimate(settings.embedding_model, selection.table, selection.column, missing)
    batch = batch_size or settings.embedding_batch_size or TEXTS_A_REQUEST
    targets = {_column(target): target for target in selection.targets}
    forecasts = _forecasts(queue, settings, estimates, targets, batch, limit)
    return Estimation(selection.targets, list(forecasts))


def _forecasts(
    queue: AdminQueue,
    settings: Settings,
    estimates: Iterable[Estimate],
    targets: Mapping[str, Target],
    batch: int,
    limit: int | None,
) -> Iterable[Forecast]:
    for estimate in estimates:
        rows = estimate.row_count
        if limit is not None and rows is not None:
            rows = min(rows, limit)
            limit -= rows
        if not rows:  # this model need not be available
            yield _nothing(estimate, rows)
            continue
        sampled = min(estimate.row_count or 0, SAMPLE)
        with closing(
            open_embedder(estimate.model, estimate.dimensions, settings, estimate.document_prompt)
        ) as embedder:
            yield forecast_rows(
                queue,
                settings,
                estimate,
                targets[_column(estimate)],
                embedder,
                rows=rows,
                sampled=sampled,
                batch=batch,
            )


def forecast_rows(
    queue: AdminQueue,
    settings: Settings,
    estimate: Estimate,
    target: Target,
    embedder: Embedder,
    *,
    rows: int,
    sampled: int,
    batch: int,
) -> Forecast:
    """Estimate what it takes to embed `rows` with an open model, by the texts of `sampled` rows.

    Raises SettingsError if the chat model of the target cannot be opened.
    """
    sample = sample_of(estimate, target, embedder)
    rate = queue.rate(estimate.model)
    share = rows / max(sampled, 1)
    forecast = _forecast(estimate, rows, share, sample, embedder, settings, batch, rate)
    if target.enhance_model and forecast.texts:
        asked = 1 - _share_known(queue, settings, target, sample.questions)
        return _with_chat_model(forecast, sample, target.enhance_model, settings, asked)
    return forecast


def _nothing(estimate: Estimate, rows: int | None) -> Forecast:
    """The forecast of a column without rows, or whose rows cannot be counted."""
    known = None if rows is None else 0.0
    return Forecast(_column(estimate), estimate.model, rows, 0, 0, 0, known, known)


def _column(of: Estimate | Target) -> str:
    return f"{of.table_name}.{of.embedding_column}"


def _forecast(
    estimate: Estimate,
    rows: int,
    share: float,
    sample: Sample,
    embedder: Embedder,
    settings: Settings,
    batch: int,
    rate: float | None,
) -> Forecast:
    texts = round(share * sample.texts)
    mean = sample.bytes / max(sample.texts, 1) + size_of(embedder.prompts.document)
    tokens = max(round(texts * mean * _tokens_per_byte(sample.examples, embedder)), texts)
    requests = ceil(texts / _texts_per_request(embedder.request_limits, batch, mean))
    times = [
        share * len(estimate.bytes) / rate if rate else None,
        60 * requests / settings.embedding_rpm if settings.embedding_rpm else None,
        60 * tokens / settings.embedding_tpm if settings.embedding_tpm else None,
    ]
    return Forecast(
        _column(estimate),
        estimate.model,
        rows,
        texts,
        tokens,
        requests,
        cost_of(tokens, embedder.price) if tokens else 0.0,
        max((time for time in times if time is not None), default=None) if texts else 0.0,
    )


def _share_known(
    queue: AdminQueue, settings: Settings, target: Target, questions: Sequence[str]
) -> float:
    """Return the share of texts for which the answer of the chat model is in the cache."""
    if not (questions and settings.enhancement_cache_mb):
        return 0.0
    model, prompt = target.enhance_model or "", target.enhance_prompt or ""
    keys = [enhancement_key(model, prompt, question) for question in questions]
    known = queue.cached_enhancements(list(dict.fromkeys(keys)))
    return sum(key in known for key in keys) / len(keys)


def _with_chat_model(
    forecast: Forecast, sample: Sample, chat_model: str, settings: Settings, asked: float
) -> Forecast:
    """Add what a chat model takes, which gets one request for each text of the share `asked`."""
    with closing(open_chat_model(chat_model, settings)) as opened:
        price = opened.price
    read = round(asked * forecast.texts / sample.texts * sample.asked / BYTES_PER_TOKEN)
    requests = round(asked * forecast.texts)
    written = requests * TOKENS_WRITTEN
    cost = chat_cost(ChatAnswer("", read, written), price)
    return replace(
        forecast,
        model=f"{forecast.model}, {chat_model}",
        tokens=forecast.tokens + read + written,
        requests=forecast.requests + requests,
        cost=_total([forecast.cost, cost]),
    )


def _tokens_per_byte(texts: Sequence[str], embedder: Embedder) -> float:
    if not embedder.count or not texts:
        return 1 / BYTES_PER_TOKEN
    return sum(map(embedder.count, texts)) / sum(map(size_of, texts))


def _texts_per_request(request_limits: RequestLimits, batch: int, mean: float) -> int:
    """How many texts of a mean length go into a request, within all limits."""
    by_bytes = request_limits.bytes // max(ceil(mean), 1)
    by_tokens = request_limits.tokens // max(tokens_at_most(ceil(mean)), 1)
    return max(min(batch, request_limits.items, by_bytes, by_tokens), 1)


def add_up(forecasts: Sequence[Forecast]) -> Forecast:
    """Add up forecasts. A number is known if it is known in each."""
    return Forecast(
        "(all)",
        "",
        _total(forecast.rows for forecast in forecasts),
        sum(forecast.texts for forecast in forecasts),
        sum(forecast.tokens for forecast in forecasts),
        sum(forecast.requests for forecast in forecasts),
        _total(forecast.cost for forecast in forecasts),
        _total(forecast.seconds for forecast in forecasts),
    )


def _total(values: Iterable[Number | None]) -> Number | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
