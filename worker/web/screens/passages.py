"""One document: its passages, whose words are hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError
from worker.operations.jobs import requeue
from worker.queue import Target
from worker.web.pages import address, target_value
from worker.web.screens.base import ROWS, Action, Done, Look, Revealed, Screen, cut
from worker.web.screens.documents import chosen_target

PATH = "/documents/passages"


def load(look: Look, revealed: Mapping[int, str | None] | None = None) -> Mapping[str, Any]:
    """Read a page of the passages of a document. `revealed` has the words of some."""
    target, record = _document(look)
    after = look.number("after")
    passages, last = cut(look.queue.passages(target, record, after, ROWS + 1))
    jobs = look.queue.page_jobs(
        table=target.table_name, column=target.embedding_column, record=record
    ).jobs
    return {
        "target": target,
        "record": record,
        "job": jobs[0] if jobs else None,
        "passages": passages,
        "next": last and last.position,
        "after": after,
        "revealed": revealed or {},
    }


def _document(look: Look) -> tuple[Target, str]:
    """Return the column and the record that an address or a form names. Raises SettingsError."""
    target, record = chosen_target(look), look.value("record")
    if target is None or record is None:
        raise SettingsError("no document is named", "Choose one in Documents.")
    return target, record


def _reveal(look: Look) -> Revealed:
    """Show the words of a passage, which the audit records."""
    target, record = _document(look)
    position = look.number("position") or 0
    words = look.queue.reveal_passage(target, record, position, source=look.source)
    return Revealed(load(look, {position: words}))


def _requeue(look: Look) -> Done:
    """Split and embed the document again."""
    target, record = _document(look)
    requeued = requeue(
        look.queue,
        status=None,
        table=target.table_name,
        column=target.embedding_column,
        record=record,
        source=look.source,
    )
    here = address(PATH, target=target_value(target), record=record)
    return Done(here, "requeued", requeued)


PASSAGES = Screen(
    name="passages",
    path=PATH,
    title="Passages",
    load=load,
    actions=(Action(f"{PATH}/reveal", _reveal), Action(f"{PATH}/requeue", _requeue)),
)
