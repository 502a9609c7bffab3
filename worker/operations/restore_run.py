"""A restore while it runs: parts one after the other, a row group at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from threading import Event

from worker.operations.restore_texts import Restore, TextsInChunks
from worker.queue import AdminQueue, Outcome, RestoreOutcome, StoredRow, Target
from worker.safekeeping.inventory import folder_of
from worker.safekeeping.manifest import BackedUpColumn, Part
from worker.safekeeping.parts import read_part
from worker.safekeeping.storage import Storage
from worker.settings import Settings

PAUSES = (0.2, 1.0, 3.0)  # seconds before what was locked is tried again
MOST_REFUSED = 5  # records whose reasons are reported


@dataclass(slots=True)
class ColumnToRestore:
    """A column of a backup, and the target that gets its vectors. `records` None: all of them."""

    backup: str
    column: BackedUpColumn
    target: Target
    parts: Sequence[Part]
    records: Collection[str] | None
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    rows_read: int = 0

    def count(self, found: Sequence[RestoreOutcome]) -> None:
        self.outcomes.update(each.outcome for each in found)
        for each in found:
            if each.outcome == "refused" and len(self.refused) < MOST_REFUSED:
                self.refused[each.record_id] = each.cause or ""


@dataclass(slots=True)
class RestoreRun:
    """Restores columns whose parts were checked."""

    queue: AdminQueue
    storage: Storage
    settings: Settings
    overwrite: bool
    dry_run: bool
    stop: Event
    _on_progress: Callable[[int, int], None] = lambda rows, of_rows: None
    _rows: int = 0
    _of_rows: int = 0

    def report_to(self, on_progress: Callable[[int, int], None], of_rows: int) -> None:
        """Report the rows that were read so far, of how many."""
        self._on_progress, self._of_rows = on_progress, of_rows

    def restore(self, wanted: ColumnToRestore) -> None:
        """Restore the vectors of a column, until the run is stopped."""
        if wanted.column.chunks is None:
            self._restore_parts(wanted, lambda rows: self._restore(wanted.target, rows))
            return
        with TextsInChunks.opened(self.queue, self.settings, wanted.target, self.dry_run) as texts:
            self._restore_parts(wanted, texts.restore)

    def _restore_parts(self, wanted: ColumnToRestore, restore: Restore) -> None:
        for part in wanted.parts:
            if self.stop.is_set():
                return
            locked = self._restore_part(wanted, part, restore)
            for pause in PAUSES:
                if locked and not self.stop.wait(pause):
                    found = restore(locked)
                    wanted.count([each for each in found if each.outcome != "locked"])
                    locked = _still_locked(locked, found)
            if locked:
                wanted.outcomes["locked"] += len({row.record_id for row in locked})

    def _restore_part(
        self, wanted: ColumnToRestore, part: Part, restore: Restore
    ) -> list[StoredRow]:
        """Restore the vectors of a part. Returns those whose rows are locked."""
        locked: list[StoredRow] = []
        with self.storage.local(folder_of(wanted.backup) + part.name) as path:
            for rows in read_part(path, part, wanted.column, wanted.records):
                if self.stop.is_set():
                    break
                found = restore(rows)
                wanted.count([each for each in found if each.outcome != "locked"])
                locked += _still_locked(rows, found)
                wanted.rows_read += len(rows)
                self._rows += len(rows)
                self._on_progress(self._rows, self._of_rows)
        return locked

    def _restore(self, target: Target, rows: Sequence[StoredRow]) -> list[RestoreOutcome]:
        return self.queue.restore(target, rows, overwrite=self.overwrite, dry_run=self.dry_run)


def _still_locked(rows: Sequence[StoredRow], found: Sequence[RestoreOutcome]) -> list[StoredRow]:
    locked = {each.record_id for each in found if each.outcome == "locked"}
    return [row for row in rows if row.record_id in locked]
