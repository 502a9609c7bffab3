"""Conditions over the figures of `worker status`: `oldest_due > 5m`."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from worker.durations import SECONDS, format_duration
from worker.errors import SettingsError
from worker.figures import rounded_down
from worker.operations.status import Figures

FIGURES = {
    "oldest_due": "seconds",
    "due": "jobs",
    "pending": "jobs",
    "failed": "jobs",
    "coverage": "percent",
    "workers": "workers",
    "silent_workers": "workers",
    "rows_per_second": "rows/s",
    "stopped_providers": "providers",
    "backup_age": "seconds",
    "failed_backups": "attempts",
    "damaged_vectors": "vectors",
}
"""The figures that a condition can compare, with their units."""

COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
UNITS = {
    "seconds": {"": 1} | SECONDS,
    "percent": {"": 1, "%": 1},
}
FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure compared with a limit, in the unit of the figure. `text`: the condition as typed."""

    text: str
    figure: str
    comparison: str
    limit: float

    def holds(self, figures: Figures) -> bool:
        """Whether the condition holds. Unknown figures never match."""
        value = figures[self.figure]
        return value is not None and bool(COMPARISONS[self.comparison](value, self.limit))

    def finding(self, figures: Figures) -> str:
        """Return one line with the figure, its value and the condition."""
        return f"{self.figure} is {_quantity(self.figure, figures[self.figure])}: {self.text}"


def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises SettingsError if it is not valid."""
    found = FORM.fullmatch(text)
    if not found:
        raise SettingsError(
            f"--fail-if {text!r} is not a valid condition",
            "Write a figure, one of > < >= <=, and a number: 'oldest_due > 5m'.",
        )
    figure, comparison, number, unit = found.groups()
    if figure not in FIGURES:
        raise SettingsError(
            f"--fail-if {text!r}: there is no figure {figure}",
            f"Choose one of {', '.join(FIGURES)}.",
        )
    units = UNITS.get(FIGURES[figure], {"": 1})
    if unit not in units:
        those = ", ".join(name for name in units if name)
        raise SettingsError(
            f"--fail-if {text!r}: {figure} is not measured in {unit}",
            f"Use {those}." if those else "Use a number without a unit.",
        )
    return Condition(" ".join(text.split()), figure, comparison, float(number) * units[unit])


def _quantity(figure: str, value: float | None) -> str:
    assert value is not None  # otherwise the condition would not hold
    if FIGURES[figure] == "seconds":
        return format_duration(value)
    return f"{rounded_down(value):g}%" if FIGURES[figure] == "percent" else f"{value:g}"
