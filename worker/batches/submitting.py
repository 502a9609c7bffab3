"""Submits a batch exactly once, whatever dies in between.

The row of a batch has a random token before anything is sent. The token is in the name of the input
file and in the metadata of the batch, so another worker can find both if this one dies.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import BinaryIO, cast

from worker.batches.holding import HeldBatch, LeaseLost
from worker.batches.input_file import InputFile
from worker.embedders.batch_api import BatchStatus
from worker.errors import ProviderError

ATTENTION = 1.0  # seconds between two looks whether the lease must be extended


def submit(held: HeldBatch, file: InputFile) -> BatchStatus:
    """Upload the file, and create the batch. Raises ProviderError and LeaseLost."""
    held.input_file = _upload(held, file)
    is_held = held.queue.record_batch_file(
        held.id,
        held.worker,
        held.input_file,
        texts=file.texts,
        bytes=file.size,
        tokens=file.tokens,
        cost=file.known_cost,
    )
    if not is_held:
        with suppress(ProviderError):
            held.api.delete_file(held.input_file)
        raise LeaseLost
    status = held.api.create(held.input_file, held.token)
    _record(held, status)
    return status


def _upload(held: HeldBatch, file: InputFile) -> str:
    """Upload the file in a thread, while this one extends the lease: it may take minutes."""
    with ThreadPoolExecutor(1, "upload") as pool:
        upload = pool.submit(held.api.upload, cast(BinaryIO, file.file), held.token)
        try:
            while wait([upload], ATTENTION).not_done:
                held.keep()
        except LeaseLost:
            with suppress(ProviderError):
                held.api.delete_file(upload.result())
            raise
    return upload.result()


def adopt(held: HeldBatch) -> BatchStatus | None:
    """Find a batch that was created, although nobody recorded it, and record it.

    None: there is none, and none can be created any more, since its input file is deleted. Raises
    ProviderError and LeaseLost.
    """
    status = _find(held)
    if status is None:
        for file in filter(None, {held.input_file, *held.api.find_files(held.token)}):
            held.keep()
            held.api.delete_file(file)
        status = _find(held)  # its creation may have been under way
    if status:
        _record(held, status)
    return status


def _find(held: HeldBatch) -> BatchStatus | None:
    held.keep()
    return held.api.find(held.token, held.batch.created_at)


def _record(held: HeldBatch, status: BatchStatus) -> None:
    """Record that the provider has the batch, and end the lease.

    If the lease was lost, cancel the batch unless another worker has recorded it.
    """
    poll = held.options.poll
    if held.queue.submit_batch(held.id, held.worker, status.id, status.expires_at, poll):
        return
    if held.id not in {batch.id for batch in held.queue.batches() if batch.provider_batch}:
        with suppress(ProviderError):
            held.api.cancel(status.id)
    raise LeaseLost
