"""The entries of the audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker.cli.console import out, say
from worker.cli.render.tables import aligned, terminal_width
from worker.cli.render.text import ago, one_line
from worker.queue import AuditEntry

LONGEST_FIGURES = 200


def print_audit(entries: Sequence[AuditEntry], *, is_full: bool) -> None:
    """Print a line for each entry: when, what, of which column, by whom and from where.

    `is_full`: there may be more.
    """
    heads = ["when", "event", "column", "by", "from", "figures"]
    for line in aligned(heads, [_cells(entry) for entry in entries], terminal_width()):
        out(line)
    if is_full:
        say("There may be more: --limit shows up to 1000.")


def _cells(entry: AuditEntry) -> tuple[object, ...]:
    named = [name for name in (entry.table_name, entry.embedding_column) if name]
    by = entry.actor if entry.actor == entry.login else f"{entry.actor} ({entry.login})"
    place = f"{entry.source} {entry.address}" if entry.address else entry.source
    return ago(entry.at), entry.event, ".".join(named) or None, by, place, _shown(entry.figures)


def _shown(figures: dict[str, Any] | None) -> str | None:
    if not figures:
        return None
    parts = [f"{name}: {_value(value)}" for name, value in figures.items()]
    return one_line(", ".join(parts), LONGEST_FIGURES)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
