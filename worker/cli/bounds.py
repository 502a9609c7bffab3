"""Where a run ends before all is done, as its flags say it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from worker.embedders import open_embedder
from worker.engine.bounds import Coverage, UntilCovered, UntilLate, UntilSpent
from worker.engine.gear import Governor
from worker.engine.progress import Progress, Tally
from worker.errors import SettingsError
from worker.queue import OperatorQueue, Scope
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a run ends before all is done; None: there is no such bound."""

    percent: float | None = None
    minutes: float | None = None
    dollars: float | None = None

    def governors(
        self, queue: OperatorQueue, scope: Scope, progress: Progress, tally: Tally
    ) -> list[Governor]:
        """Those who see to it."""
        found: list[Governor] = []
        if self.percent is not None:
            coverage = partial(coverage_of, queue, scope)
            found.append(UntilCovered(self.percent, coverage, tally, progress))
        if self.minutes is not None:
            found.append(UntilLate(60 * self.minutes))
        if self.dollars is not None:
            found.append(UntilSpent(self.dollars, tally))
        return found


def refuse_unpriced(settings: Settings, models: Iterable[str]) -> None:
    """Raise SettingsError if nobody knows what one of the models costs."""
    for model in models:
        with closing(open_embedder(model, None, settings)) as embedder:
            if embedder.price is None:
                raise SettingsError(
                    f"what {model} costs is not known, so --max-cost has no meaning",
                    "Bound the run with --limit or --max-minutes.",
                )


def percent_of(given: str | None) -> float | None:
    """What somebody typed as a percentage. Raises SettingsError."""
    if given is None:
        return None
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?) ?%?", given.strip())
    if not found or not 0 < float(found[1]) <= 100:
        raise SettingsError(
            f"--until must be a percentage above 0 and up to 100: `{given}`", "Like --until 50%."
        )
    return float(found[1])


def coverage_of(queue: OperatorQueue, scope: Scope) -> Coverage:
    """How far the columns of a scope are, all together. Raises SettingsError if nobody can tell."""
    rows = vectors = 0
    for column in queue.status():
        if scope.table in (None, column.table_name) and scope.column in (
            None,
            column.embedding_column,
        ):
            if column.rows is None:
                raise SettingsError(
                    f"the rows of {column.table_name} cannot be counted, so --until has no meaning",
                    "`worker status` says why; name another table with --table.",
                )
            rows += column.rows - column.skipped
            vectors += min(column.completed, column.rows - column.skipped)
    return Coverage(rows, vectors)


NONE = Bounds()
