"""Several who watch one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb

from worker.engine.progress import Progress, RunStats


class CompositeObserver:
    """A Progress that passes all it hears to each of `members`, in their order.

    One that raises keeps nothing from the others, nor from the run: they hear of it, once, as
    `observer_failed`, and it goes on hearing what comes.
    """

    def __init__(self, *members: Progress) -> None:
        self._members = list(members)
        self._failed: set[int] = set()

    def add(self, member: Progress) -> None:
        """One more, who hears what comes from now on."""
        self._members.append(member)

    def update(self, stats: RunStats) -> None:
        self._pass_on(lambda member: member.update(stats))

    def pulse(self) -> None:
        self._pass_on(lambda member: member.pulse())

    def event(self, name: str, **fields: object) -> None:
        self._pass_on(lambda member: member.event(name, **fields))

    def _pass_on(self, tell: Callable[[Progress], None]) -> None:
        for number, member in enumerate(self._members):
            try:
                tell(member)
            except Exception as problem:
                if number not in self._failed:
                    self._failed.add(number)
                    self.event(
                        "observer_failed", observer=type(member).__name__, cause=_place_of(problem)
                    )


def _place_of(problem: Exception) -> str:
    """What was raised and where. Its words are left out: nobody knows what they repeat."""
    frame = extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
