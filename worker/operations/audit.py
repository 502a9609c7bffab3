"""Lists who did what to columns, jobs, vectors and workers."""

from __future__ import annotations

from worker.queue import AdminQueue, AuditEntry


def list_audit(
    queue: AdminQueue, table: str | None = None, *, limit: int = 20, before: int | None = None
) -> list[AuditEntry]:
    """Return the latest entries of the audit, the newest first; of a table, by its name as typed.

    `before`: those before the entry with this id. A table that is gone is found by the name in its
    entries. Raises SettingsError if there is neither a table of that name nor an entry.
    """
    found = queue.audit(table, limit, before)
    if found or table is None:
        return found
    return queue.audit(queue.table_name(table), limit, before)
