"""The stop conditions of a run, and how its flags set them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from worker.embedders.registry import open_chat_model, open_embedder
from worker.engine.progress import Progress, RunStats
from worker.engine.stop_conditions import Coverage, UntilCovered, UntilLate, UntilSpent
from worker.engine.throttling import Throttle
from worker.errors import SettingsError
from worker.queue import AdminQueue, Scope
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When a run ends before all is done; None: this condition is not set."""

    percent: float | None = None
    minutes: float | None = None
    dollars: float | None = None

    def throttles(
        self, queue: AdminQueue, scope: Scope, progress: Progress, stats: RunStats
    ) -> list[Throttle]:
        """Return the throttles that enforce the conditions."""
        found: list[Throttle] = []
        if self.percent is not None:
            coverage = partial(measure_coverage, queue, scope)
            found.append(UntilCovered(self.percent, coverage, stats, progress))
        if self.minutes is not None:
            found.append(UntilLate(60 * self.minutes))
        if self.dollars is not None:
            found.append(UntilSpent(self.dollars, stats))
        return found


def refuse_unpriced(settings: Settings, models: Iterable[str], chat_models: Iterable[str]) -> None:
    """Raise SettingsError if the price of one of the models is not known."""
    for model in models:
        with closing(open_embedder(model, None, settings)) as embedder:
            _refuse_without(embedder.price, model)
    for model in chat_models:
        with closing(open_chat_model(model, settings)) as chat_model:
            _refuse_without(chat_model.price, model)


def _refuse_without(price: object, model: str) -> None:
    if price is None:
        raise SettingsError(
            f"the price of {model} is not known, so --max-cost cannot be used",
            "Limit the run with --limit or --max-minutes.",
        )


def parse_percent(given: str | None) -> float | None:
    """Parse a percentage. Raises SettingsError."""
    if given is None:
        return None
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?) ?%?", given.strip())
    if not found or not 0 < float(found[1]) <= 100:
        raise SettingsError(
            f"--until must be a percentage above 0 and up to 100: `{given}`", "Write --until 50%."
        )
    return float(found[1])


def measure_coverage(queue: AdminQueue, scope: Scope) -> Coverage:
    """Measure the coverage of a scope. Raises SettingsError if rows cannot be counted."""
    rows = vectors = 0
    for column in queue.coverage():
        if scope.includes(column.table_name, column.embedding_column):
            if column.rows is None:
                raise SettingsError(
                    f"the rows of {column.table_name} cannot be counted, so --until cannot be used",
                    "`worker status` says why; name another table with --table.",
                )
            rows += column.rows - column.skipped
            vectors += min(column.completed, column.rows - column.skipped)
    return Coverage(rows, vectors)


NONE = StopConditions()
