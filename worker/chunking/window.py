"""The part of a text in which a chunk may end, and the best place there.

No chunk ends inside a character as people see it: a letter with its accents, a flag, a family of
emoji. Unicode calls them extended grapheme clusters (UAX #29).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import regex

NEIGHBOURS = 48  # characters on either side of a break, whose hash decides between equal breaks
MARGIN = 100  # characters around its range that a pattern may also match

# A flag is two regional indicators. \X alone would count all those before it, each time.
CLUSTER = regex.compile(r"\p{RI}{2}[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*+|\X")
APART = regex.compile(r"(?:\n|\p{GCB=Other})\p{GCB=Other}")  # never in one cluster

Weight = tuple[int, bool] | tuple[()]
Breaks = Mapping[int, Weight]
"""Where a chunk may end, with the weight of each place."""
Rank = tuple[int, Weight, int, int]


@dataclass(frozen=True)
class Window:
    """A chunk that begins at `first`, with a cluster, may end from `low` to `high`."""

    text: str
    first: int
    low: int
    high: int

    @property
    def least(self) -> int:
        """The least size of a chunk."""
        return self.low - self.first

    @property
    def seen(self) -> int:
        """How far breaks are compared: the next chunk may end at one behind `high`."""
        return min(self.high + 2 * self.least, len(self.text))

    @cached_property
    def cluster_ends(self) -> Collection[int]:
        """Where clusters end, from `first` to `high`."""
        characters = self.text[self.first : self.high + 1]
        if characters.isascii() and "\r\n" not in characters:
            return range(self.first + 1, self.high + 1)
        ends = (self.first + match.end() for match in CLUSTER.finditer(characters))
        return {end for end in ends if end <= self.high}

    def cuts_no_cluster(self, position: int) -> bool:
        """Return whether a chunk may end there. Breaks behind `high` are only compared."""
        return (
            position > self.high
            or bool(APART.match(self.text, position - 1))
            or position in self.cluster_ends
        )

    def matches(self, pattern: re.Pattern[str]) -> Breaks:
        """Return where a pattern ends. `Rules` describes its groups, which give the weights."""
        begin = max(self.first, self.low - self.least - MARGIN)
        return {
            match.end(): (-len(match[1]), bool(match[2])) if pattern.groups else ()
            for match in pattern.finditer(self.text, begin, self.seen + MARGIN)
            if self.first < match.end() <= self.seen
        }

    def strongest(self, kinds: Iterable[Breaks], allowed: Callable[[int], bool]) -> int | None:
        """Return the best allowed break: the first kind that has one in the window decides.

        If no kind has one, a cluster may end there.
        """
        ranks: dict[int, Rank] = {}
        for strength, breaks in enumerate(kinds):
            for position in filter(allowed, breaks):
                rank = (-strength, breaks[position], self._hash(position), position)
                ranks.setdefault(position, rank)
            if any(self.low <= position <= self.high for position in ranks):
                return self._choice(ranks)
        ends = (end for end in self.cluster_ends if end >= self.low and allowed(end))
        return max(ends, key=lambda end: (self._hash(end), end), default=None)

    def _choice(self, ranks: Mapping[int, Rank]) -> int | None:
        """Return the first peak in the window: a break that outranks all within the least size.

        Whether a break is a peak depends on the text around it alone, so after an edit the chunks
        are the same again from the next peak on. On the way to a peak behind the window, a chunk
        ends at the break of the largest hash, and leaves room for one more before that peak.
        """
        positions = sorted(ranks)

        def highest(begin: int, end: int) -> int | None:
            near = positions[bisect_left(positions, begin) : bisect_left(positions, end)]
            return max(near, key=ranks.__getitem__, default=None)

        def peak(begin: int, end: int) -> int | None:
            found = highest(begin, end)
            if found is None or highest(found - self.least + 1, found + self.least) != found:
                return None
            return found

        end = self.high + 1
        for begin in range(self.low, end, self.least):
            if found := peak(begin, min(begin + self.least, end)):
                return found
        following = peak(end, end + self.least)
        limit = following - self.least + 1 if following else end
        return highest(self.low, min(limit, end)) or highest(self.low, end)

    def _hash(self, position: int) -> int:
        near = self.text[max(0, position - NEIGHBOURS) : position + NEIGHBOURS]
        return crc32(near.encode("utf-8", "surrogatepass"))
