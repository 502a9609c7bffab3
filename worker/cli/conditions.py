"""Conditions over the figures of the queue, as `worker status --fail-if` takes them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.cli.screen import Snapshot
from worker.errors import SettingsError

UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "%": 1.0, "": 1.0}
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure, compared with a number (seconds, jobs, percent)."""

    figure: str
    comparison: str
    number: float
    written: str

    @classmethod
    def of(cls, written: str) -> Condition:
        """Raises SettingsError, with what was expected."""
        found = re.fullmatch(r"\s*(\w+)\s*([<>]=?)\s*(\d+(?:\.\d+)?)\s*([smhd%]?)\s*", written)
        if not found:
            raise SettingsError(
                f"--fail-if makes no sense: `{written}`",
                "Write a figure, one of > >= < <=, and a number: 'oldest_due > 5m', 'failed > 0'.",
            )
        figure, comparison, number, unit = found.groups()
        if figure not in FIGURES:
            raise SettingsError(
                f"--fail-if knows no figure `{figure}`", f"It knows {', '.join(FIGURES)}."
            )
        return cls(figure, comparison, float(number) * UNITS[unit], written.strip())

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether it does. Of a figure that is not known, none holds."""
        value = FIGURES[self.figure](snapshot)
        return value is not None and COMPARISONS[self.comparison](value, self.number)

    def told(self, snapshot: Snapshot) -> str:
        """The condition, with the figure as it is."""
        value = FIGURES[self.figure](snapshot)
        return f"{self.figure} is {value:g}: {self.written}"


def _oldest_due(snapshot: Snapshot) -> float:
    since = snapshot.progress.oldest_due
    return 0.0 if since is None else snapshot.age(since)


def _coverage(snapshot: Snapshot) -> float | None:
    """That of the column that is least far."""
    known = [column.coverage for column in snapshot.columns if column.coverage is not None]
    return min(known, default=None)


FIGURES: Mapping[str, Callable[[Snapshot], float | None]] = {
    "oldest_due": _oldest_due,
    "due": lambda snapshot: snapshot.progress.due,
    "pending": lambda snapshot: snapshot.progress.pending,
    "failed": lambda snapshot: sum(column.failed for column in snapshot.columns),
    "coverage": _coverage,
    "rows_per_second": lambda snapshot: snapshot.progress.rows_per_second,
    "workers": lambda snapshot: sum(not snapshot.is_silent(of) for of in snapshot.workers),
    "silent_workers": lambda snapshot: sum(snapshot.is_silent(of) for of in snapshot.workers),
    "stopped_providers": lambda snapshot: len(snapshot.providers),
}
