"""Finds batches of a Batch API, and cancels them."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from worker.engine.progress import Progress
from worker.errors import SettingsError
from worker.operations.batch_planning import demand_batches
from worker.operations.batch_serving import batch_server
from worker.operations.scopes import resolve_scope
from worker.queue import AdminQueue, Batch, CallSource
from worker.settings import Settings


def find_batch(queue: AdminQueue, id: int) -> Batch:
    """Return a batch. Raises SettingsError if there is none of this number."""
    demand_batches(queue)
    found = [batch for batch in queue.batches() if batch.id == id]
    if not found:
        raise SettingsError(f"there is no batch {id}", "`worker batches list --all` lists them.")
    return found[0]


def cancel(
    queue: AdminQueue,
    settings: Settings,
    ids: Sequence[int],
    observer: Progress,
    stop: Event,
    *,
    source: CallSource = "api",
) -> None:
    """Cancel batches that are under way. What is done of them is still written.

    This worker tells the provider, if it has the key; else another one does. Raises SettingsError
    if one of them is not under way.
    """
    known = {batch.id: batch for batch in queue.batches() if batch.is_under_way}
    for id in ids:
        if id not in known:
            raise SettingsError(
                f"batch {id} is not under way", "`worker batches list` shows those that are."
            )
    for id in ids:
        queue.cancel_batch(id, source=source)
    scope = resolve_scope(queue, settings, None, None)
    with batch_server(queue, settings, scope, observer, stop) as server:
        server.look_at(ids)
