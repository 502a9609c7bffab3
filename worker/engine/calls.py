"""The calls of models: how long their answers took, and what became of each with its retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from worker.engine.histogram import Histogram
from worker.errors import ProviderError

Result = TypeVar("Result")


@dataclass(slots=True)
class Call:
    """A request to a model, with its retries.

    `began`: when it was first sent, in seconds since 1970. `failures`: when each try failed, and
    its error class. `tokens` and `written` are those that the model read and wrote; None: not
    reported. `error_class`: None if it was answered.
    """

    texts: int
    began: float | None = None
    seconds: float = 0.0
    failures: list[tuple[float, str]] = field(default_factory=list)
    tokens: int | None = None
    written: int | None = None
    error_class: str | None = None

    def observed(self, request: Callable[[], Result], times: Histogram) -> Callable[[], Result]:
        """Wrap a request, so that each of its tries is recorded. `times` counts how long its
        answer took."""

        def attempt() -> Result:
            self.began = self.began or time.time()
            began = time.monotonic()
            try:
                result = request()
            except ProviderError as failure:
                self.failures.append((time.time(), failure.error_class))
                raise
            times.count(time.monotonic() - began)
            return result

        return attempt


@dataclass(slots=True)
class Calls:
    """The calls for some jobs. `times` counts how long answers took."""

    times: Histogram = field(default_factory=Histogram)
    ended: list[Call] = field(default_factory=list)

    @contextmanager
    def call(self, texts: int) -> Iterator[Call]:
        """Record a call, unless nothing is sent."""
        call = Call(texts)
        try:
            yield call
        except ProviderError as error:
            call.error_class = error.error_class
            raise
        finally:
            if call.began is not None:
                call.seconds = time.time() - call.began
                self.ended.append(call)

    def add(self, other: Calls) -> None:
        """Add the calls for other jobs."""
        self.times.add(other.times)
        self.ended += other.ended
