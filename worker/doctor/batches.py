"""Checks that batches come back, and that jobs do not wait for one in vain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from worker.queue import AdminQueue, Batch, BatchBackfill, Finding

OVERDUE = timedelta(hours=2)  # after the time by which the provider wants to be done
UNSERVED = timedelta(minutes=15)
FAILURES_OF_AN_HOUR = 6  # in a row: the pauses after them add up to an hour
SERVE = "Run `worker run` where the key of the provider is set."


def inspect_batches(queue: AdminQueue) -> Iterator[Finding]:
    """Yield a finding for each batch that is overdue, and for each column whose jobs wait in vain.

    A schema from before batches has none.
    """
    if not queue.has_batches():
        return
    now = queue.clock()
    under_way = [batch for batch in queue.batches() if batch.is_under_way]
    for batch in under_way:
        yield from _late(batch, now)
    busy = {batch.target_id for batch in under_way}
    for backfill in queue.batch_backfills():
        if backfill.waiting:
            yield from _in_vain(backfill, now, is_busy=backfill.target_id in busy)


def _late(batch: Batch, now: datetime) -> Iterator[Finding]:
    subject = f"batch {batch.id} of {batch.table_name}.{batch.embedding_column}"
    if batch.look_at and now - batch.look_at > UNSERVED:
        yield Finding(
            "warning",
            "batches_unserved",
            subject,
            f"no worker has looked at it since {batch.look_at:%Y-%m-%d %H:%M} UTC",
            SERVE,
        )
    elif batch.expires_at and now - batch.expires_at > OVERDUE:
        yield Finding(
            "warning",
            "batch_overdue",
            subject,
            f"the provider wanted to be done at {batch.expires_at:%Y-%m-%d %H:%M} UTC",
            f"Look at its page at the provider, or cancel it: worker batches cancel {batch.id}.",
        )


def _in_vain(backfill: BatchBackfill, now: datetime, *, is_busy: bool) -> Iterator[Finding]:
    subject = f"{backfill.table_name}.{backfill.embedding_column}"
    waiting = f"{backfill.waiting} jobs wait for a batch"
    if backfill.is_over_budget:
        yield Finding(
            "note",
            "batches_over_budget",
            subject,
            f"{waiting}, and --max-cost leaves no room for one",
            "Give a higher one: worker backfill --batch-api --max-cost …; or embed them the"
            " ordinary way: worker batches cancel --waiting.",
        )
    elif backfill.failures >= FAILURES_OF_AN_HOUR:
        yield Finding(
            "warning",
            "batches_failing",
            subject,
            f"{backfill.failures} batches in a row failed: {backfill.error_message}",
            "They are tried again. To embed the texts the ordinary way:"
            " worker batches cancel --waiting.",
        )
    elif not is_busy and now - (backfill.retry_at or backfill.requested_at) > UNSERVED:
        yield Finding(
            "warning", "batches_unserved", subject, f"{waiting}, and no worker makes one", SERVE
        )
