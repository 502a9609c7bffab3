"""`--dry-run`: how much there is to embed, and what it will take, without a call to a model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from math import ceil

from worker.cli.console import NOTHING_WATCHED, out, out_json, out_table, say
from worker.embedders import Caps, Embedder, open_embedder
from worker.embedders.packing import size_of, tokens_at_most
from worker.engine.pipeline import TEXTS_A_REQUEST
from worker.queue import Estimate
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

SAMPLE = 200  # rows at most, of each column
BYTES_PER_TOKEN = 4  # in most texts; OpenAI itself estimates so


@dataclass(frozen=True, slots=True)
class Forecast:
    """What it will take to embed a column. None: not known.

    `rows` of which `texts` need a call; `cost` in US dollars; `seconds` for one worker, by what was
    measured with the model in the last week, and by the limits of the settings.
    """

    column: str
    model: str
    rows: int | None
    texts: int
    tokens: int
    requests: int
    cost: float | None
    seconds: float | None


def print_forecast(
    queue: PostgresQueue,
    settings: Settings,
    *,
    table: str | None,
    column: str | None,
    missing: bool,
    batch_size: int | None = None,
    limit: int | None = None,
    as_json: bool = False,
) -> None:
    """Print what is due (or `missing`: what a backfill would enqueue), and what it will take."""
    found = queue.targets(table, column)
    only_table = found[0].table_name if table else None
    estimates = queue.estimate(settings.embedding_model, only_table, column, missing)
    batch = batch_size or settings.embedding_batch_size or TEXTS_A_REQUEST
    forecasts = list(_forecasts(queue, settings, estimates, batch, limit))
    if as_json:
        out_json([asdict(forecast) for forecast in forecasts])
    elif not forecasts:
        say(NOTHING_WATCHED)
    else:
        _print(forecasts)


def _forecasts(
    queue: PostgresQueue,
    settings: Settings,
    estimates: Iterable[Estimate],
    batch: int,
    limit: int | None,
) -> Iterable[Forecast]:
    for estimate in estimates:
        rows = estimate.row_count
        if limit is not None and rows is not None:
            rows = min(rows, limit)
            limit -= rows
        with closing(open_embedder(estimate.model, estimate.dimensions, settings)) as embedder:
            rate = queue.rate(estimate.model)
            yield _forecast(estimate, rows, embedder, settings, batch, rate)


def _forecast(
    estimate: Estimate,
    rows: int | None,
    embedder: Embedder,
    settings: Settings,
    batch: int,
    rate: float | None,
) -> Forecast:
    sampled = max(min(estimate.row_count or 0, SAMPLE), 1)
    texts = round((rows or 0) * len(estimate.bytes) / sampled)
    mean = sum(estimate.bytes) / max(len(estimate.bytes), 1)
    tokens = round(texts * mean * _tokens_per_byte(estimate.texts, embedder))
    requests = ceil(texts / _texts_per_request(embedder.caps, batch, mean))
    times = [
        texts / rate if rate else None,
        60 * requests / settings.embedding_rpm if settings.embedding_rpm else None,
        60 * tokens / settings.embedding_tpm if settings.embedding_tpm else None,
    ]
    return Forecast(
        f"{estimate.table_name}.{estimate.embedding_column}",
        estimate.model,
        rows,
        texts,
        tokens,
        requests,
        None if embedder.price is None else tokens * embedder.price / 1e6,
        max((time for time in times if time is not None), default=None),
    )


def _tokens_per_byte(texts: list[str], embedder: Embedder) -> float:
    if not embedder.count or not texts:
        return 1 / BYTES_PER_TOKEN
    return sum(map(embedder.count, texts)) / sum(map(size_of, texts))


def _texts_per_request(caps: Caps, batch: int, mean: float) -> int:
    """How many texts of a mean length go into a request, under all caps."""
    by_bytes = caps.bytes // max(ceil(mean), 1)
    by_tokens = caps.tokens // max(tokens_at_most(ceil(mean)), 1)
    return max(min(batch, caps.items, by_bytes, by_tokens), 1)


def _print(forecasts: list[Forecast]) -> None:
    out_table(
        ["column", "model", "rows", "texts", "tokens", "requests", "cost", "time"],
        [
            (
                forecast.column,
                forecast.model,
                forecast.rows,
                forecast.texts,
                forecast.tokens,
                forecast.requests,
                None if forecast.cost is None else f"{forecast.cost:.4f}",
                _duration(forecast.seconds),
            )
            for forecast in forecasts
        ],
    )
    known = [forecast.cost for forecast in forecasts if forecast.cost is not None]
    total = f"about ${sum(known):.4f}" if len(known) == len(forecasts) else "not known"
    out(f"Cost: {total}")
    if any(forecast.seconds is None and forecast.texts for forecast in forecasts):
        say("hint: the time is not known before a first run with the model")


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
