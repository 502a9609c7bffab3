"""Figures with their limits, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

HEADINGS = ("what", "limit", "measured", "ratio", "goal", "verdict")


class Skipped(Exception):
    """A suite cannot run on this machine. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measurement with all its samples, and the samples of its limit from the same run.

    The goal (`at_least` or `at_most`) applies to the ratio of the medians, or to the median if
    there is no limit. A figure without a goal is for information only.
    """

    what: str
    unit: str
    samples: Sequence[float]
    limits: Sequence[float] = ()
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        of_limit = "" if self.ratio is None else f", {self.ratio:.2f} of the limit"
        return f"{self.what}: {_number(self.measured)} {self.unit}{of_limit}"

    @property
    def measured(self) -> float:
        return median(self.samples)

    @property
    def limit(self) -> float | None:
        return median(self.limits) if self.limits else None

    @property
    def ratio(self) -> float | None:
        return self.measured / self.limit if self.limit else None

    @property
    def verdict(self) -> Literal["ok", "MISSES", ""]:
        if self.at_least is None and self.at_most is None:
            return ""
        judged = self.measured if self.ratio is None else self.ratio
        reached = (self.at_least is None or judged >= self.at_least) and (
            self.at_most is None or judged <= self.at_most
        )
        return "ok" if reached else "MISSES"

    @property
    def goal(self) -> str:
        """Return the goal as text: `≥ 0.40` of the limit, or `≤ 200 MB`."""
        unit = "" if self.limits else f" {self.unit}"
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return ", ".join(f"{sign} {_number(b)}{unit}" for sign, b in bounds if b is not None)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures in aligned columns, and below them the figures that miss their goal."""
    lines = [HEADINGS, *map(_cells, figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    missing = [figure.what for figure in figures if figure.verdict == "MISSES"]
    return "\n".join(
        [*aligned, "", *([f"misses its goal: {what}" for what in missing] or ["all goals met"])]
    )


def write_json(path: Path, about: Mapping[str, str | int], figures: Sequence[Figure]) -> None:
    """Write the environment, and each figure with all its samples."""
    derived = ("limit", "measured", "ratio", "verdict")
    entries = [
        asdict(figure) | {name: getattr(figure, name) for name in derived} for figure in figures
    ]
    path.write_text(json.dumps({**about, "figures": entries}, indent=2) + "\n", encoding="utf-8")


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        figure.what,
        "" if figure.limit is None else f"{_number(figure.limit)} {figure.unit}",
        f"{_number(figure.measured)} {figure.unit}",
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        figure.goal,
        figure.verdict,
    )


def _number(value: float) -> str:
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"
