"""Compares a backfill in batches with an ordinary one, without calling the provider."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from math import ceil

from worker.embedders.base import cost_of
from worker.embedders.batch_api import BatchApi
from worker.embedders.packing import BYTES_PER_TOKEN
from worker.operations.batch_planning import batchable, open_batch_api_of
from worker.operations.estimate import Forecast, estimate
from worker.queue import AdminQueue, Target
from worker.settings import Settings

LONGEST_SECONDS = 86_400.0  # the provider's limit for a batch
BYTES_OF_A_LINE = 200  # besides the text


@dataclass(frozen=True, slots=True)
class BatchForecast:
    """An estimate of what a backfill of a column takes, the ordinary way and in `batches`.

    `cost` in US dollars, None if the price is not known. `seconds` None: not known; those of
    batches at most, if the account lets all of them be enqueued at once.
    """

    ordinary: Forecast
    batches: int
    cost: float | None
    seconds: float


def forecast_batches(
    queue: AdminQueue,
    settings: Settings,
    *,
    table: str | None = None,
    column: str | None = None,
    max_cost: float | None = None,
) -> list[BatchForecast]:
    """Estimate what it takes to embed the rows that lack a vector, in batches and the ordinary way.

    Raises SettingsError if a column cannot be embedded in batches.
    """
    columns = batchable(queue, settings, table=table, column=column, max_cost=max_cost)
    targets = {target.named: target for target in columns}
    found = estimate(queue, settings, table=table, column=column, missing=True)
    return [
        _forecast(forecast, targets[forecast.column], settings)
        for forecast in found.forecasts
        if forecast.column in targets
    ]


def _forecast(ordinary: Forecast, target: Target, settings: Settings) -> BatchForecast:
    with closing(open_batch_api_of(target, settings)) as api:
        return BatchForecast(
            ordinary,
            _count_batches(ordinary, api, settings.embedding_batch_tokens),
            cost_of(ordinary.tokens, api.price) if ordinary.tokens else 0.0,
            LONGEST_SECONDS if ordinary.texts else 0.0,
        )


def _count_batches(forecast: Forecast, api: BatchApi, most_tokens: int | None) -> int:
    """Count the batches that a number of texts takes, by each limit."""
    size = forecast.tokens * BYTES_PER_TOKEN + forecast.texts * BYTES_OF_A_LINE
    return max(
        ceil(forecast.texts / api.limits.texts),
        ceil(size / api.limits.bytes),
        ceil(forecast.tokens / most_tokens) if most_tokens else 0,
    )
