"""The audit: who did what, when, and from where. See docs/sql-api.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Literal, NewType

from worker.queue.calls import Calls
from worker.queue.transports import MOST_ROWS

Source = Literal["cli", "sql", "api", "web"]
"""Where a call comes from: a command, SQL, a program with the Python API, or `worker serve`."""
WebSource = NewType("WebSource", str)
"""The source `web` with the address of a browser or app."""
CallSource = Source | WebSource
"""What a call gives as its source."""
RecordedEvent = Literal["adopted", "restored", "repaired", "text_revealed"]
AUDIT_IN_ONE_CALL = MOST_ROWS


def from_web(address: str | None) -> CallSource:
    """Return the source of a call from a browser or app, with its address if that is one of IP."""
    try:
        return WebSource(f"web {ip_address((address or '').partition('%')[0])}")
    except ValueError:  # a socket of this machine, or a name
        return "web"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A call that changed something.

    `actor` is the role that called, `login` the one that logged in. `address` is that of the
    client, or of a pooler or an API between; of a call from the web, that of its browser or app.
    The last three are those of a step of a re-embedding; `figures` say what was asked for or done.
    """

    id: int
    at: datetime
    actor: str
    login: str
    source: Source
    application: str | None
    address: str | None
    event: str
    table_name: str | None
    embedding_column: str | None
    figures: dict[str, Any] | None
    reembedding_id: int | None
    from_state: str | None
    to_state: str | None


class AuditCalls(Calls):
    """Reads the audit, and adds to it what a program does in several calls."""

    def audit(
        self, table: str | None = None, limit: int = 20, before: int | None = None
    ) -> list[AuditEntry]:
        return self._rows(
            AuditEntry,
            "list_embedding_audit",
            only_table=table,
            only_reembedding=None,
            max_rows=limit,
            before_id=before,
        )

    def record_audit(
        self,
        event: RecordedEvent,
        table: str | None = None,
        column: str | None = None,
        *,
        source: CallSource = "api",
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            "record_embedding_audit",
            event=event,
            table_name=table,
            embedding_column=column,
            source=source,
            figures=None if figures is None else dict(figures),
        )
