"""Checks of the stored vectors of each column, which idle workers share. See docs/sql-api.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from worker.queue.audit import CallSource
from worker.queue.calls import Calls

CheckState = Literal["sound", "repaired", "repairing", "waiting"]


@dataclass(frozen=True, slots=True)
class Check:
    """What the last whole check of a column found, and how far the present one is.

    `state` is None until a check has ended; `waiting` means that a person has to begin the repair.
    `from_cache`, `from_backup`, `requeued` and `over_budget` are what became of the damaged
    vectors. `started_at` is None unless a check is going on; it has checked the records up to
    `looked_to`, and found `found_so_far`.
    """

    target_id: int
    table_name: str
    embedding_column: str
    state: CheckState | None
    vectors: int | None
    lost: int | None
    overwritten: int | None
    checked_at: datetime | None
    from_cache: int
    from_backup: int
    requeued: int
    over_budget: int
    started_at: datetime | None
    looked_to: str | None
    found_so_far: dict[str, Any]
    worker: str | None
    lease_expires_at: datetime | None

    @property
    def left(self) -> int:
        """How many damaged vectors the last whole check found and did not repair."""
        if self.state == "waiting":
            return (self.lost or 0) + (self.overwritten or 0)
        return self.over_budget


@dataclass(frozen=True, slots=True)
class Checked:
    """What a whole check found, and what became of the damaged vectors.

    `cost`: US dollars for those that are requeued, as an estimate; None: not known.
    """

    vectors: int
    lost: int = 0
    overwritten: int = 0
    from_cache: int = 0
    from_backup: int = 0
    requeued: int = 0
    over_budget: int = 0
    cost: float | None = 0.0


class CheckCalls(Calls):
    """Begins and ends checks. The caller compares the vectors."""

    def checks(self) -> list[Check]:
        return self._read(Check, "embedding_check_states", "table_name", "embedding_column")

    def begin_check(
        self,
        worker: str,
        every: timedelta,
        lease_for: timedelta,
        table: str | None = None,
        column: str | None = None,
    ) -> Check | None:
        found = self._rows(
            Check,
            "begin_embedding_check",
            worker=worker,
            every=every,
            lease_for=lease_for,
            only_table=table,
            only_column=column,
        )
        return found[0] if found else None

    def continue_check(
        self,
        check: Check,
        lease_for: timedelta,
        looked_to: str | None = None,
        found_so_far: Mapping[str, Any] | None = None,
        state: CheckState | None = None,
    ) -> bool:
        return bool(
            self._call(
                "continue_embedding_check",
                target_id=check.target_id,
                worker=check.worker,
                lease_for=lease_for,
                looked_to=looked_to,
                found_so_far=None if found_so_far is None else dict(found_so_far),
                state=state,
            )
        )

    def end_check(
        self, check: Check, state: CheckState, checked: Checked, *, source: CallSource = "api"
    ) -> bool:
        return bool(
            self._call(
                "end_embedding_check",
                target_id=check.target_id,
                worker=check.worker,
                state=state,
                **asdict(checked),
                source=source,
            )
        )
