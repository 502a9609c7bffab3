"""Conditions over the figures of `worker status`: `oldest_due > 5m`."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from worker.cli.render.text import rounded_down
from worker.durations import SECONDS, span
from worker.errors import SettingsError
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
}
"""What a condition may be about, and what it is counted in."""

COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
UNITS = {
    "seconds": {"": 1} | SECONDS,
    "percent": {"": 1, "%": 1},
}
FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure compared with a limit, in the unit of the figure. `text` as somebody wrote it."""

    text: str
    figure: str
    comparison: str
    limit: float

    def holds(self, figures: Figures) -> bool:
        """Whether it is so. Of a figure that is not known nothing is."""
        value = figures[self.figure]
        return value is not None and bool(COMPARISONS[self.comparison](value, self.limit))

    def finding(self, figures: Figures) -> str:
        """One line on a condition that holds: its figure, and what it is."""
        return f"{self.figure} is {_quantity(self.figure, figures[self.figure])}: {self.text}"


def condition_of(text: str) -> Condition:
    """The condition that a text stands for. Raises SettingsError if it is none."""
    found = FORM.fullmatch(text)
    if not found:
        raise SettingsError(
            f"--fail-if {text!r} is no condition",
            "It is a figure, one of > < >= <=, and a number: 'oldest_due > 5m'.",
        )
    figure, comparison, number, unit = found.groups()
    if figure not in FIGURES:
        raise SettingsError(
            f"--fail-if {text!r}: there is no figure {figure}", f"There are {', '.join(FIGURES)}."
        )
    units = UNITS.get(FIGURES[figure], {"": 1})
    if unit not in units:
        those = ", ".join(name for name in units if name)
        raise SettingsError(
            f"--fail-if {text!r}: {figure} is not measured in {unit}",
            f"It takes {those}." if those else "It takes a number without a unit.",
        )
    return Condition(" ".join(text.split()), figure, comparison, float(number) * units[unit])


def _quantity(figure: str, value: float | None) -> str:
    assert value is not None  # or the condition did not hold
    if FIGURES[figure] == "seconds":
        return span(value)
    return f"{rounded_down(value):g}%" if FIGURES[figure] == "percent" else f"{value:g}"
