"""Limits how much the database does in one call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from worker.errors import StatementTimeout

JOBS_IN_ONE_CALL = 2000  # of a command that goes through the queue: a fraction of a second
ROWS_VERIFIED_IN_ONE_CALL = 20_000  # which writes nothing: a tenth of a second
CALLS_UNTIL_MORE = 20  # that succeed, until twice as much is tried

Result = TypeVar("Result")


class Portion:
    """The largest number of jobs or rows that stays within the statement timeout."""

    def __init__(self) -> None:
        self._most = sys.maxsize
        self._calls = 0

    def within_time(self, size: int, call: Callable[[int], Result]) -> Result:
        """Return `call(size)`, or the same with less if that takes too long.

        A number that takes too long is halved. Raises StatementTimeout if even one takes too long.
        """
        while True:
            size = min(size, self._most)
            try:
                result = call(size)
            except StatementTimeout:
                if size == 1:
                    raise
                self._most, self._calls = size // 2, 0
            else:
                self._calls += size == self._most
                if self._calls == CALLS_UNTIL_MORE:
                    self._most, self._calls = 2 * self._most, 0
                return result
