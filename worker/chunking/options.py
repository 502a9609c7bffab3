"""How a text is split: its format, and how long a chunk may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from worker.errors import SettingsError
from worker.queue import ChunkFormat, ChunkUnit

SMALLEST = 16  # characters or tokens: no tokenizer of bytes needs more for one character
CHARACTERS_PER_TOKEN = 8  # at most, in a chunk: some tokenizers count no white space
PRECISE_ENOUGH = 0.9  # of the tokens of a chunk, when its longest extent is searched for


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """`chunk_size` is the most that a chunk has, in `chunk_unit`; `count_tokens` counts tokens.

    Raises SettingsError if an option cannot be used.
    """

    format: ChunkFormat = "markdown"
    chunk_size: int = 1250
    chunk_unit: ChunkUnit = "characters"
    count_tokens: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(ChunkFormat):
            known = ", ".join(get_args(ChunkFormat))
            raise SettingsError(f"unknown format: `{self.format}`", f"Use one of {known}.")
        if self.chunk_unit not in get_args(ChunkUnit):
            raise SettingsError(
                f"unknown unit: `{self.chunk_unit}`", "Use `characters` or `tokens`."
            )
        if self.chunk_size < SMALLEST:
            raise SettingsError(
                f"the chunk size is too small: {self.chunk_size}", f"Use {SMALLEST} or more."
            )
        if self.chunk_unit == "tokens" and self.count_tokens is None:
            raise SettingsError(
                "the tokens of this model cannot be counted", "Give the chunk size in characters."
            )

    def fits(self, text: str, first: int, last: int) -> bool:
        """Return whether `text[first:last]` is short enough for one chunk."""
        if last - first > self._most_characters:
            return False
        return not self._counter or self._counter(text[first:last]) <= self.chunk_size

    def reach(self, text: str, first: int, limit: int) -> int:
        """Return how far a chunk from `first` may reach, at most to `limit`.

        For tokens, the result is close to the largest; every step narrows the range by an eighth
        or more, so that few are needed whatever the tokenizer does.
        """
        high = min(first + self._most_characters, limit)
        if not self._counter or (above := self._counter(text[first:high])) <= self.chunk_size:
            return high
        low, below = first, 0
        while below < PRECISE_ENOUGH * self.chunk_size and high - low > 1:
            width = high - low
            guess = width * (self.chunk_size - below) // (above - below)
            middle = low + max(1, min(max(guess, width // 8), width - width // 8, width - 1))
            tokens = self._counter(text[first:middle])
            if tokens <= self.chunk_size:
                low, below = middle, tokens
            else:
                high, above = middle, tokens
        return max(low, first + 1)

    @property
    def _counter(self) -> Callable[[str], int] | None:
        return self.count_tokens if self.chunk_unit == "tokens" else None

    @property
    def _most_characters(self) -> int:
        return self.chunk_size * (CHARACTERS_PER_TOKEN if self._counter else 1)
