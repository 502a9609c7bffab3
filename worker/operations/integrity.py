"""Compares stored vectors with what was written, while a worker is idle, and repairs the damage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from threading import Event

from worker.engine.progress import Progress
from worker.errors import SettingsError
from worker.operations.repair import Damage, Repaired, Repairer, damaged_ranges, in_batches
from worker.operations.session import has_ended, new_worker_name
from worker.operations.verify import compare_with_model
from worker.queue import AdminQueue, CallSource, Check, Checked, CheckState, Damaged, Target
from worker.settings import Settings

LEASE = timedelta(minutes=5)
SHARE = 0.02  # of the time, in which a check may keep the database busy
LONGEST_REST = 60.0  # seconds
LOOK_AGAIN = 30.0  # seconds
BUSY = 2  # intervals between two checks by a worker that is never idle
A_DAY = 86_400.0  # seconds between two comparisons of a column with its model
COMPARED = 5  # texts of a column

Attend = Callable[[float], bool]
"""Called after each range with the seconds that it took. False: end early."""


class Interrupted(Exception):
    """A check has ended early: another worker goes on with it."""


_new_name = partial(new_worker_name, "check")


@dataclass(slots=True)
class ColumnCheck:
    """A check of a column that was begun: it finds the damage, repairs it, and ends.

    Raises Interrupted if `attend` wants that, or if another worker has the check by now.
    """

    queue: AdminQueue
    check: Check
    target: Target
    attend: Attend
    source: CallSource = "api"

    def find(self) -> Damage:
        """Compare all vectors with what was written, from where an earlier worker ended."""
        damage = Damage(self._vectors(), **self.check.found_so_far)
        for rows, looked_to in self._ranges(self.check.looked_to):
            damage.add(rows)
            so_far = {"lost": damage.lost, "overwritten": damage.overwritten}
            self._go_on(looked_to, so_far if looked_to else None)
        return damage

    def repair(
        self, settings: Settings, budget: float | None, seen: Damage | None = None
    ) -> Repaired:
        """Repair the damage; embedding texts again may cost `budget` US dollars.

        With `seen`, as a worker repairs by itself: what is found on the way is added to it, and a
        repair ends when that is large; the budget is that of all repairs of the last 24 hours.
        """
        shares_budget = seen is not None
        repairer = Repairer(self.queue, settings, self.target, budget, shares_budget)
        for rows in in_batches(self._damaged()):
            if seen:
                seen.add(rows)
                if seen.is_large:
                    break
            repairer.repair(rows)
        return repairer.done

    def end(self, state: CheckState, damage: Damage, repaired: Repaired) -> None:
        """Record what was found and done."""
        checked = Checked(**asdict(damage), **asdict(repaired))
        self.queue.end_check(self.check, state, checked, source=self.source)

    def release(self) -> None:
        """Let another worker go on at once."""
        self.queue.continue_check(self.check, timedelta(0))

    def _damaged(self) -> Iterator[list[Damaged]]:
        for rows, _ in self._ranges(None):
            yield rows
            self._go_on(state="repairing")

    def _ranges(self, after: str | None) -> Iterator[tuple[list[Damaged], str | None]]:
        began = time.monotonic()
        for rows, looked_to in damaged_ranges(self.queue, self.target, after):
            yield rows, looked_to
            if looked_to is not None and not self.attend(time.monotonic() - began):
                raise Interrupted
            began = time.monotonic()

    def _go_on(
        self,
        looked_to: str | None = None,
        found_so_far: dict[str, int] | None = None,
        state: CheckState | None = None,
    ) -> None:
        if not self.queue.continue_check(self.check, LEASE, looked_to, found_so_far, state):
            raise Interrupted

    def _vectors(self) -> int:
        """Count the jobs that are completed."""
        name = (self.target.table_name, self.target.embedding_column)
        return sum(
            each.completed
            for each in self.queue.coverage()
            if (each.table_name, each.embedding_column) == name
        )


@dataclass(frozen=True, slots=True)
class CheckedColumn:
    """What a check of a column has found, and what became of it; None: nothing was done."""

    target: Target
    damage: Damage
    repaired: Repaired | None


def repair_column(
    queue: AdminQueue,
    settings: Settings,
    target: Target,
    *,
    budget: float | None = None,
    agree: Callable[[Damage], bool] = lambda damage: True,
    attend: Attend = lambda took: True,
    source: CallSource = "api",
) -> CheckedColumn:
    """Check a column now, and repair the damage, however large it is, if `agree` says so.

    `budget`: US dollars that embedding texts again may cost; None: whatever it takes. Raises
    SettingsError if a worker is checking the column, and Interrupted if `attend` wants to end.
    """
    check = _begin(queue, target)
    column = ColumnCheck(queue, check, target, attend, source)
    try:
        damage = column.find()
        if not damage.rows:
            column.end("sound", damage, Repaired())
            return CheckedColumn(target, damage, None)
        if not agree(damage):
            column.release()
            return CheckedColumn(target, damage, None)
        repaired = column.repair(settings, budget)
    except BaseException:
        column.release()
        raise
    column.end("repaired", damage, repaired)
    return CheckedColumn(target, damage, repaired)


def _begin(queue: AdminQueue, target: Target) -> Check:
    """Begin a check now, or go on with that of a worker of this host that has ended."""
    names = (target.table_name, target.embedding_column)
    for known in queue.checks():
        if (known.table_name, known.embedding_column) == names and has_ended(known.worker or ""):
            queue.continue_check(known, timedelta(0))
    check = queue.begin_check(_new_name(), timedelta(0), LEASE, *names)
    if check is None:
        raise SettingsError(
            f"a worker is checking {'.'.join(names)}, or it is suspended",
            "Try again later; `worker status` shows a column that is suspended.",
        )
    return check


@dataclass(slots=True)
class IntegrityMonitor:
    """Checks each watched column at an interval (`every`), and repairs what is damaged.

    Workers share this: a column is checked by one of them at a time, and another goes on where one
    has ended. Reports `vectors_damaged` if a check finds something new, `vectors_repaired`,
    `problem_found` for what the doctor finds in the database, and, once a day, `model_drifted` if
    the model gives other vectors than it gave.
    """

    settings: Settings
    every: timedelta
    observer: Progress
    is_idle: Callable[[], bool] = lambda: True
    is_paused: Callable[[], bool] = lambda: False
    worker: str = field(default_factory=_new_name)
    _diagnosed_at: float = -math.inf
    _problems: set[tuple[str, str]] = field(default_factory=set)
    _started_at: float = field(default_factory=time.monotonic)
    _compared_at: dict[int, float] = field(default_factory=dict)

    def serve(self, queue: AdminQueue, stop: Event) -> None:
        """Check what is due until `stop` is set."""
        while not stop.is_set():
            check = None
            if not self.is_paused():
                wanted = self.every if self.is_idle() else BUSY * self.every
                check = queue.begin_check(self.worker, wanted, LEASE)
            if check:
                self._check(queue, check, stop)
            else:
                stop.wait(min(LOOK_AGAIN, self.every.total_seconds()))

    def _check(self, queue: AdminQueue, check: Check, stop: Event) -> None:
        target = queue.target(check.table_name, check.embedding_column)
        column = ColumnCheck(queue, check, target, lambda took: _rest(took, stop))
        try:
            damage = column.find()
            if damage.rows and (damage.lost, damage.overwritten) != (check.lost, check.overwritten):
                self._report("vectors_damaged", target, **asdict(damage))
            state, repaired = self._repaired(column, damage)
        except Interrupted:
            column.release()
        else:
            column.end(state, damage, repaired)
            if state != "waiting":
                self._diagnose(queue)
            if state == "sound":
                self._compare_with_model(queue, target, check.target_id)

    def _diagnose(self, queue: AdminQueue) -> None:
        """Report what is wrong in the database, each problem once until it is gone."""
        now = time.monotonic()
        if now < self._diagnosed_at + self.every.total_seconds():
            return
        self._diagnosed_at = now
        found = [
            finding
            for finding in queue.diagnose()
            if finding.level == "problem" and finding.check != "vectors_damaged"  # see _check
        ]
        for finding in found:
            if (finding.check, finding.subject) not in self._problems:
                fields = asdict(finding)
                del fields["level"]
                self.observer.event("problem_found", **fields)
        self._problems = {(finding.check, finding.subject) for finding in found}

    def _compare_with_model(self, queue: AdminQueue, target: Target, id: int) -> None:
        """Compare a few vectors with those that the model gives now, once a day; for the first time
        after a day, so that a worker that is started often does not pay for that each time."""
        now = time.monotonic()
        if now < self._compared_at.get(id, self._started_at) + A_DAY:
            return
        self._compared_at[id] = now
        result = compare_with_model(queue, self.settings, target, COMPARED)
        if result.status == "problem":
            figures = {name: result.figures[name] for name in ("lowest", "gate")}
            self._report("model_drifted", target, **figures)

    def _repaired(self, column: ColumnCheck, damage: Damage) -> tuple[CheckState, Repaired]:
        """Repair the damage, unless a person should look at it first."""
        if not damage.rows:
            return "sound", Repaired()
        if damage.is_large:
            return "waiting", Repaired()
        seen = Damage(damage.vectors)
        repaired = column.repair(self.settings, self.settings.repair_budget, seen)
        self._report("vectors_repaired", column.target, **asdict(repaired))
        if seen.is_large:  # something damages vectors right now
            damage.lost, damage.overwritten = seen.lost, seen.overwritten
            return "waiting", repaired
        return "repaired", repaired

    def _report(self, event: str, target: Target, **figures: object) -> None:
        names = {"table": target.table_name, "column": target.embedding_column}
        self.observer.event(event, **names, **figures)


def _rest(took: float, stop: Event) -> bool:
    """Rest so long that a check takes its SHARE of the time. False: the worker ends."""
    return not stop.wait(min(took * (1 / SHARE - 1), LONGEST_REST))
