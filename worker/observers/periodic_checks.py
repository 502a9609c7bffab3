"""Reports on a run as a whole: its progress each minute, and its failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from worker.engine.progress import RunStats
from worker.errors import WorkerError
from worker.host import resident_mb
from worker.queue import AdminQueue, Scope, other_model

MINUTE = 60.0  # seconds

Emit = Callable[..., None]
"""`Progress.event`."""


class EveryMinute:
    """A Progress that reports each minute what was done in it; nothing while the run is idle."""

    def __init__(self, queue: AdminQueue, emit: Emit) -> None:
        self._queue = queue
        self._emit = emit
        self._stats = RunStats()
        self._before = (0, 0)
        self._began = time.monotonic()

    def update(self, stats: RunStats) -> None:
        self._stats = stats

    def pulse(self) -> None:
        now = time.monotonic()
        if now - self._began < MINUTE:
            return
        completed, failed = self._stats.completed, self._stats.failed
        if (completed, failed) != self._before:
            done = completed - self._before[0]
            self._emit(
                "minute_passed",
                completed=done,
                failed=failed - self._before[1],
                rows_per_second=done / (now - self._began),
                pending=self._pending(),
                rss_mb=resident_mb(),
            )
        self._began, self._before = now, (completed, failed)

    def event(self, name: str, **fields: object) -> None:
        pass

    def _pending(self) -> int | None:
        try:
            return self._queue.count_pending()
        except WorkerError:  # the run waits for the database by itself
            return None


class Failures:
    """A Progress that reports each time another `threshold` jobs have failed in this run."""

    def __init__(self, threshold: int, emit: Emit) -> None:
        self._threshold = threshold
        self._emit = emit
        self._times_reported = 0

    def update(self, stats: RunStats) -> None:
        times = stats.failed // self._threshold
        if times > self._times_reported:
            self._times_reported = times
            self._emit("failures_exceeded", failed=stats.failed, threshold=self._threshold)

    def pulse(self) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        pass


class OtherModels:
    """A Progress that reports the columns that hold vectors of another default model, each once.

    Claims skip them. It checks the targets at the start and once a minute.
    """

    def __init__(self, queue: AdminQueue, scope: Scope, emit: Emit) -> None:
        self._queue = queue
        self._scope = scope
        self._emit = emit
        self._looked_at = -inf
        self._reported: set[tuple[str, str]] = set()

    def update(self, stats: RunStats) -> None:
        pass

    def pulse(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < MINUTE:
            return
        self._looked_at = now
        try:
            targets = self._queue.targets(self._scope.table, self._scope.column)
        except WorkerError:  # the run waits for the database by itself
            return
        problems = {
            (target.table_name, target.embedding_column): problem
            for target in targets
            if (problem := other_model(target, self._scope.default_model))
        }
        for (table, column), problem in problems.items():
            if (table, column) not in self._reported:
                self._emit(
                    "model_unusable",
                    table=table,
                    column=column,
                    cause=problem.cause,
                    hint=problem.hint,
                )
        self._reported = set(problems)

    def event(self, name: str, **fields: object) -> None:
        pass
