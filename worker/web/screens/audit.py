"""The audit: who did what, when, and from where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.operations.audit import list_audit
from worker.web.screens.base import ROWS, Look, Screen, cut


def load(look: Look) -> Mapping[str, Any]:
    """Read a page of entries, the newest first."""
    table = look.value("table")
    found = list_audit(look.queue, table, limit=ROWS + 1, before=look.number("before"))
    entries, last = cut(found)
    return {
        "entries": entries,
        "next": last and last.id,
        "table": table,
        "is_first": look.value("before") is None,
    }


AUDIT = Screen(name="audit", path="/audit", title="Audit", label="Audit", load=load)
