"""Lists who did what to columns, jobs, vectors and workers."""

from __future__ import annotations

from collections.abc import Sequence

from worker.queue import AdminQueue, AuditEntry, CallSource, Target

MOST_IDS = 50  # of the records that an entry names ...
LONGEST_ID = 30  # ... and characters of each


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


def record_revealed(
    queue: AdminQueue, target: Target, record_ids: Sequence[str], source: CallSource = "api"
) -> None:
    """Record that somebody is shown the texts of records, before they are."""
    shown = [record[:LONGEST_ID] for record in dict.fromkeys(record_ids)][:MOST_IDS]
    queue.record_audit(
        "text_revealed",
        target.table_name,
        target.named_column,
        source=source,
        figures={"records": shown, "texts": len(record_ids)},
    )
