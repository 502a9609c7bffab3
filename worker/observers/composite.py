"""Several observers of one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb

from worker.engine.progress import Progress, RunStats


class CompositeObserver:
    """A Progress that passes every call to each of `members`, in their order.

    A member that raises does not affect the others or the run. The members get one
    `observer_failed` event for it, and it still gets all later calls.
    """

    def __init__(self, *members: Progress) -> None:
        self._members = list(members)
        self._failed: set[int] = set()

    def add(self, member: Progress) -> None:
        """Add a member, which gets all calls from now on."""
        self._members.append(member)

    def update(self, stats: RunStats) -> None:
        self._pass_on(lambda member: member.update(stats))

    def pulse(self) -> None:
        self._pass_on(lambda member: member.pulse())

    def event(self, name: str, **fields: object) -> None:
        self._pass_on(lambda member: member.event(name, **fields))

    def _pass_on(self, call: Callable[[Progress], None]) -> None:
        for number, member in enumerate(self._members):
            try:
                call(member)
            except Exception as problem:
                if number not in self._failed:
                    self._failed.add(number)
                    self.event(
                        "observer_failed", observer=type(member).__name__, cause=_describe(problem)
                    )


def _describe(problem: Exception) -> str:
    """Return the type and the place of an error. Its message is left out: it may hold a secret."""
    frame = extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
