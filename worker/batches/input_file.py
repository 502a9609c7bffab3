"""The input file of a batch: one line for each different text, within all limits."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from math import inf
from tempfile import TemporaryFile
from typing import IO

from worker.embedders.base import NO_CAP, cost_of
from worker.embedders.batch_api import BatchApi
from worker.embedders.packing import size_of, tokens_at_most
from worker.errors import Rejected
from worker.queue import Job


@dataclass(frozen=True, slots=True)
class Room:
    """What a batch may still hold. `cost` in US dollars."""

    texts: int = NO_CAP
    bytes: int = NO_CAP
    tokens: int = NO_CAP
    cost: float = inf


@dataclass(slots=True)
class InputFile:
    """A file without a name, which is gone when this process ends.

    `tokens` and `cost` are exact where the tokens of a text can be counted here, else rather too
    high than too low.
    """

    api: BatchApi
    room: InitVar[Room]
    texts: int = 0
    size: int = 0
    """Of the file in bytes."""
    tokens: int = 0
    cost: float = 0.0
    is_full: bool = False
    """Whether a text did not fit."""
    file: IO[bytes] = field(default_factory=TemporaryFile)
    _room: Room = field(init=False)
    _in: set[bytes] = field(default_factory=set)
    """The keys of the texts that are in."""

    def __post_init__(self, room: Room) -> None:
        limits = self.api.limits
        self._room = Room(
            min(room.texts, limits.texts), min(room.bytes, limits.bytes), room.tokens, room.cost
        )

    def add(self, job: Job) -> bool:
        """Add a line for the text of a job, unless it has one. False: it does not fit.

        Raises Rejected if the text is certainly too long for the model.
        """
        if job.vector_key in self._in:
            return True
        tokens = self._count(job)
        line = self.api.line(str(job.id), job.content)
        cost = cost_of(tokens, self.api.price) or 0.0
        if not self._has_room_for(len(line), tokens, cost):
            self.is_full = True
            return False
        self.file.write(line)
        self._in.add(job.vector_key)
        self.texts += 1
        self.size += len(line)
        self.tokens += tokens
        self.cost += cost
        return True

    @property
    def known_cost(self) -> float | None:
        """US dollars; None if the price is not known."""
        return None if self.api.price is None else self.cost

    def close(self) -> None:
        self.file.close()

    def _has_room_for(self, size: int, tokens: int, cost: float) -> bool:
        room = self._room
        return (
            self.texts < room.texts
            and self.size + size <= room.bytes
            and self.tokens + tokens <= room.tokens
            and self.cost + cost <= room.cost
        )

    def _count(self, job: Job) -> int:
        """Count the tokens of a text with its prompt. Raises Rejected."""
        [text] = self.api.prompts.before([job.content], "document")
        if not self.api.count:
            return tokens_at_most(size_of(text))
        tokens = self.api.count(text)
        most = self.api.request_limits.tokens_per_text
        if tokens > most:
            raise Rejected(
                f"{self.api.model} takes {most} tokens, and the text has {tokens}",
                error_class="too_long",
                share=most / tokens,
            )
        return tokens
