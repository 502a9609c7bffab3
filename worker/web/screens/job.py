"""One job: its times, what its worker and its provider said, and its text, which is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from worker.operations.jobs import requeue
from worker.queue import JobDetail, JobId, JobStatus
from worker.web.screens.base import Action, Done, Look, Revealed, Screen, not_found

JOB_STATES: tuple[JobStatus, ...] = ("pending", "processing", "failed", "completed", "skipped")
LONGEST_ID = 18  # digits


def load(look: Look, text: str | None = None, is_revealed: bool = False) -> Mapping[str, Any]:
    """Read a job."""
    job = look.queue.job(_id_of(look))
    if job is None:
        raise not_found("job")
    return {"job": job, "timeline": _timeline(job), "text": text, "is_revealed": is_revealed}


def _timeline(job: JobDetail) -> list[tuple[str, datetime]]:
    """What is known of the times of a job, in their order."""
    known = [
        ("enqueued", job.created_at),
        ("last completed", job.completed_at),
        ("failed" if job.status == "failed" else "last changed", job.updated_at),
        ("due from", job.available_at if job.status == "pending" else None),
        ("lease ends", job.lease_expires_at),
    ]
    return sorted(((name, at) for name, at in known if at), key=lambda event: event[1])


def _reveal(look: Look) -> Revealed:
    """Show the text of the record, which the audit records."""
    text = look.queue.reveal_text(_id_of(look), source=look.source)
    return Revealed(load(look, text, is_revealed=True))


def _requeue(look: Look) -> Done:
    id = _id_of(look)
    requeued = requeue(look.queue, status=None, ids=[id], source=look.source)
    return Done(f"/jobs/{id}", "requeued", requeued)


def _id_of(look: Look) -> JobId:
    id = look.values["id"]
    if len(id) > LONGEST_ID:
        raise not_found("job")
    return JobId(int(id))


JOB = Screen(
    name="job",
    path="/jobs/{id:int}",
    title="Job",
    load=load,
    actions=(
        Action("/jobs/{id:int}/reveal", _reveal),
        Action("/jobs/{id:int}/requeue", _requeue),
    ),
)
