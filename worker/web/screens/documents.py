"""The columns whose texts are in chunks, and their documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError
from worker.operations.jobs import reprocess
from worker.queue import AdminQueue, JobsPage, Target
from worker.web.pages import address, target_value
from worker.web.screens.base import Action, Done, Look, Screen
from worker.web.tasks import Task

PATH = "/documents"


def load(look: Look) -> Mapping[str, Any]:
    """Read the columns in chunks; of one that is chosen, a page of its documents."""
    targets = [target for target in look.queue.targets() if target.chunk_format]
    chosen = chosen_target(look)
    page = _page(look, chosen) if chosen else None
    return {
        "targets": targets,
        "chosen": chosen,
        "documents": page.jobs if page else [],
        "next": page.next_cursor if page else None,
        "is_first": look.value("after") is None,
    }


def chosen_target(look: Look) -> Target | None:
    """Return the column that an address or a form names; None: it names none.

    Raises SettingsError if it is not watched.
    """
    table, column = look.watched
    return look.queue.target(table, column) if table and column else None


def _page(look: Look, target: Target) -> JobsPage:
    return look.queue.page_jobs(
        table=target.table_name, column=target.embedding_column, cursor=look.value("after")
    )


def _reprocess(look: Look) -> Done:
    """Embed the documents again whose text or id matches a pattern, as a task."""
    target, pattern, source = chosen_target(look), look.value("pattern"), look.source
    if target is None or pattern is None:
        raise SettingsError("a column and a pattern are needed", "A pattern has * and ?.")

    def work(queue: AdminQueue, task: Task) -> None:
        def say(count: int) -> None:
            task.say(f"{count:,} documents are pending")

        say(
            reprocess(
                queue,
                pattern,
                table=target.table_name,
                column=target.embedding_column,
                source=source,
                stop=task.stop,
                on_batch=say,
            )
        )

    title = f"Reprocess {pattern[:60]} in {target.named}"
    return look.start(title, work, address(PATH, target=target_value(target)))


DOCUMENTS = Screen(
    name="documents",
    path=PATH,
    title="Documents",
    label="Documents",
    load=load,
    actions=(Action("/documents/reprocess", _reprocess),),
)
