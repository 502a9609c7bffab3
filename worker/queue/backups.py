"""Which backups were made, which is due, and who makes it. See docs/sql-api.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from worker.queue.audit import CallSource
from worker.queue.calls import Calls

BackupState = Literal["running", "complete", "failed"]


@dataclass(frozen=True, slots=True)
class KnownBackup:
    """A backup as the database knows it. Only its destination shows whether it still exists.

    `name` is the time when it was begun. `only_table` None: of all tables. `rows` and `bytes` are
    what is written so far, `failures` the attempts in a row that failed, with the message of the
    last one. `problem` is what was wrong when it was read back, at `checked_at`.
    """

    id: int
    destination: str
    name: str
    only_table: str | None
    state: BackupState
    worker: str
    started_at: datetime
    finished_at: datetime | None
    lease_expires_at: datetime | None
    rows: int
    bytes: int
    failures: int
    error_message: str | None
    checked_at: datetime | None
    problem: str | None


class BackupCalls(Calls):
    """Begins and ends backups. The caller writes their files."""

    def backups(self) -> list[KnownBackup]:
        return self._read(KnownBackup, "embedding_backups", "id")

    def begin_backup(
        self,
        destination: str,
        worker: str,
        lease_for: timedelta,
        every: timedelta | None = None,
        table: str | None = None,
    ) -> KnownBackup | None:
        found = self._rows(
            KnownBackup,
            "begin_embedding_backup",
            destination=destination,
            worker=worker,
            lease_for=lease_for,
            every=every,
            only_table=table,
        )
        return found[0] if found else None

    def extend_backup(
        self,
        backup: KnownBackup,
        lease_for: timedelta,
        rows: int | None = None,
        bytes: int | None = None,
    ) -> bool:
        return bool(
            self._call(
                "extend_embedding_backup",
                id=backup.id,
                worker=backup.worker,
                lease_for=lease_for,
                rows=rows,
                bytes=bytes,
            )
        )

    def end_backup(
        self,
        backup: KnownBackup,
        rows: int,
        bytes: int,
        error: str | None = None,
        *,
        source: CallSource = "api",
    ) -> bool:
        return bool(
            self._call(
                "end_embedding_backup",
                id=backup.id,
                worker=backup.worker,
                rows=rows,
                bytes=bytes,
                error=error,
                source=source,
            )
        )

    def record_backup_check(self, destination: str, name: str, problem: str | None) -> bool:
        return bool(
            self._call(
                "record_embedding_backup_check",
                destination=destination,
                name=name,
                problem=problem,
            )
        )
