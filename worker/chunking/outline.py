"""The marks around the chunk that is being made, and the headings above it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

LONGEST_PATH = 300  # characters


class Mark(NamedTuple):
    """A part of a text that should stay whole: no chunk should end between `first` and `last`.

    A part that is `joined` to what follows should not be the end of a chunk either. A heading has a
    `level`, 1 for the highest, and a `title`.
    """

    first: int
    last: int
    joined: bool = False
    level: int = 0
    title: str = ""


class Outline:
    """Reads the marks of a text in order, and keeps those near the current chunk."""

    def __init__(self, marks: Iterator[Mark]) -> None:
        self._coming = marks
        self._next = next(marks, None)
        self._near: list[Mark] = []
        self._firsts: list[int] = []
        self._headings: deque[Mark] = deque()
        self._path: list[Mark] = []

    def advance(self, first: int, high: int) -> None:
        """Keep the marks of `text[first:high]`."""
        self._near = [mark for mark in self._near if mark.last > first]
        while self._next and self._next.first < high:
            self._near.append(self._next)
            if self._next.level:
                self._headings.append(self._next)
            self._next = next(self._coming, None)
        self._firsts = [mark.first for mark in self._near]

    def mark_over(self, position: int) -> Mark | None:
        """Return the mark because of which no chunk should end at this position."""
        before = bisect_left(self._firsts, position) - 1
        mark = self._near[before] if before >= 0 else None
        return mark if mark and position < mark.last + mark.joined else None

    def allowed_before(self, position: int) -> int:
        """Return the last position, at or before this one, that no mark is over."""
        while mark := self.mark_over(position):
            position = mark.first
        return position

    def headings(self, low: int, high: int) -> list[int]:
        """Return where headings begin, from `low` to `high`."""
        return [mark.first for mark in self._near if mark.level and low <= mark.first <= high]

    def path(self, position: int) -> str:
        """Return the headings above a position as `A > B`. Positions must not decrease.

        If that is too long, the highest headings are left out.
        """
        while self._headings and self._headings[0].first <= position:
            heading = self._headings.popleft()
            self._path = [above for above in self._path if above.level < heading.level]
            self._path.append(heading)
        titles = [heading.title for heading in self._path if heading.title]
        while len(titles) > 1 and len(" > ".join(titles)) > LONGEST_PATH:
            del titles[0]
        return " > ".join(titles)[:LONGEST_PATH]
