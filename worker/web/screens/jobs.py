"""The jobs: a list with a cursor, and the requeue of those that are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import SettingsError
from worker.operations.jobs import requeue
from worker.queue import JobId
from worker.web.screens.base import Action, Done, Look, Screen
from worker.web.screens.job import JOB_STATES

ADDRESS = "/jobs"
FILTER = ("status", "target", "table", "column", "class", "record")


def load(look: Look) -> Mapping[str, Any]:
    """Read a page of the jobs that match."""
    table, column = look.watched
    status = look.choice("status", JOB_STATES)
    page = look.queue.page_jobs(
        status=status,
        table=table,
        column=column,
        error_class=look.error_class,
        record=look.value("record"),
        cursor=look.value("after"),
    )
    return {
        "jobs": page.jobs,
        "next": page.next_cursor,
        "states": JOB_STATES,
        "status": status,
        "targets": look.queue.targets(),
        "table": table,
        "column": column,
        "error_class": look.error_class,
        "record": look.value("record"),
        "chosen": look.given(FILTER),
        "is_first": look.value("after") is None,
    }


def _requeue(look: Look) -> Done:
    """Make the chosen jobs of a page pending again, or all of it."""
    chosen = look.values.get("shown", "").split(",") if look.value("every") else look.chosen
    ids = [JobId(int(id)) for id in chosen if id.isascii() and id.isdigit() and len(id) < 19]
    if not ids:
        raise SettingsError("no job is chosen", "Check the boxes of some, then press Requeue.")
    requeued = requeue(look.queue, status=None, ids=ids, source=look.source)
    return Done(look.back(ADDRESS), "requeued", requeued)


JOBS = Screen(
    name="jobs",
    path=ADDRESS,
    title="Jobs",
    label="Jobs",
    load=load,
    actions=(Action("/jobs/requeue", _requeue),),
)
