"""The steps of a batch: it is sent, looked at while it is under way, and finished."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import timedelta

from worker.batches.collecting import collect, delete_files
from worker.batches.holding import HeldBatch, Interrupted, LeaseLost
from worker.batches.input_file import InputFile, Room
from worker.batches.limits import learned_limit
from worker.batches.preparing import fill
from worker.batches.submitting import adopt, submit
from worker.embedders.base import cost_of
from worker.embedders.batch_api import BatchStatus
from worker.errors import ProviderError, ProviderRefused
from worker.queue import Batch, BatchState
from worker.queue.batches import NO_ROOM

FIRST_PAUSE = timedelta(minutes=1)  # after a failure; doubles with each one in a row
LOOK_WHILE_CANCELLING = timedelta(seconds=10)
TOKEN_LIMIT = "token_limit_exceeded"
UNKNOWN = "unknown"  # provider_state of a batch that the provider does not know
STOPPED = "its worker was stopped before it was created"
NEVER_CREATED = "its worker died before it was created"


def send(held: HeldBatch, room: Room, default_model: str) -> bool:
    """Fill a new batch with jobs that wait, and submit it. Returns whether it is under way.

    Raises LeaseLost.
    """
    with closing(InputFile(held.api, room)) as file:
        try:
            held.api.probe()
            fill(held, file, default_model)
            if not file.texts:
                _end_without_texts(held, file)
                return False
            submit(held, file)
        except Interrupted:
            give_up(held, "interrupted", STOPPED)
            return False
        except OSError as error:
            cause = f"its input file cannot be written: {error.strerror}"
            fail(held, "no_file", cause, "Set TMPDIR to a folder with 200 MB of room.")
            return False
        except ProviderError as error:
            if not _was_created(held, error):
                return False
        held.report(
            "batch_submitted",
            texts=file.texts,
            bytes=file.size,
            tokens=file.tokens,
            cost=file.known_cost,
        )
    return True


def look(held: HeldBatch) -> BatchState | None:
    """Take the next step of a batch whose jobs were claimed. Returns its state if it has ended.

    Raises ProviderError, Interrupted and LeaseLost.
    """
    if held.batch.provider_batch is None:
        return _recover(held)
    status = held.api.status(held.batch.provider_batch)
    if status is None:
        held.give_back(held.options.poll, UNKNOWN)
        return None
    if status.has_ended:
        return _finish(held, status)
    held.give_back(_cancel_if_wanted(held, status), status.state)
    return None


def give_up(held: HeldBatch, error_class: str, cause: str) -> BatchState:
    """End a batch that was not created, or is gone. Its jobs wait for another one, unless a person
    cancelled it."""
    held.release_rest(to_wait=not held.is_cancelled)
    with suppress(ProviderError):
        delete_files(held, None)
    return _end(held, "cancelled" if held.is_cancelled else "failed", error_class, cause)


def fail(
    held: HeldBatch, error_class: str, cause: str, hint: str | None = None, most: int | None = None
) -> BatchState:
    """End a batch like `give_up`, and let the next one of its column wait for a pause.

    `most`: the enqueued tokens that the account allows.
    """
    held.release_rest(to_wait=not held.is_cancelled)
    return _end(
        held, "failed", error_class, cause, hint=hint, retry_in=FIRST_PAUSE, most_tokens=most
    )


def _recover(held: HeldBatch) -> BatchState | None:
    """Find out whether a batch was created, after its worker has died or got no answer."""
    return None if adopt(held) else give_up(held, "not_created", NEVER_CREATED)


def _was_created(held: HeldBatch, error: ProviderError) -> bool:
    """Whether a batch was created although submitting it ended with an error. If it was not, it
    fails; while that is not known, it stays as it is."""
    try:
        # nothing can be there if the provider refused the file
        if (held.input_file or not isinstance(error, ProviderRefused)) and adopt(held):
            return True
    except ProviderError:
        held.give_back(FIRST_PAUSE)
        held.report("batch_failed", error_class=error.error_class, cause=error.cause)
        return False
    if held.stop.is_set():
        give_up(held, "interrupted", STOPPED)
    else:
        fail(held, error.error_class, error.cause, error.hint)
    return False


def _end_without_texts(held: HeldBatch, file: InputFile) -> None:
    """End a batch for which no text was left, or into which the first one did not fit."""
    if file.is_full:
        fail(held, NO_ROOM, "the limits leave no room for the next text")
    else:
        held.release_rest(to_wait=False)
        _end(held, "completed")


def _cancel_if_wanted(held: HeldBatch, status: BatchStatus) -> timedelta:
    """Cancel a batch that a person wants cancelled. Returns when to look at it again."""
    if not held.is_cancelled:
        return held.options.poll
    if status.state != "cancelling":
        held.api.cancel(status.id)
    return min(held.options.poll, LOOK_WHILE_CANCELLING)


def _finish(held: HeldBatch, status: BatchStatus) -> BatchState:
    """Write the results of a batch that has ended, release its other jobs, and delete its files."""
    tokens = collect(held, status)
    is_late = status.state == "expired" and not held.is_cancelled
    # what was not done in time waits again; what a person cancelled, or failed alone, does not
    held.release_rest(to_wait=is_late or status.state == "failed")
    with suppress(ProviderRefused):  # files expire by themselves as well
        delete_files(held, status)
    if status.state == "failed":
        return _finish_failed(held, status)
    state: BatchState = "completed"
    if status.state in ("expired", "cancelled"):
        state = status.state
    return _end(held, state, tokens=tokens)


def _finish_failed(held: HeldBatch, status: BatchStatus) -> BatchState:
    """End a batch that the provider did not process. If there were too many enqueued tokens, note
    how many there may be."""
    most = None
    if status.error_code == TOKEN_LIMIT:
        most = learned_limit(held.batch, _others_under_way(held), status.token_limit)
    cause = status.error_message or "the provider did not process the batch"
    return fail(held, status.error_code or "refused", cause, most=most)


def _others_under_way(held: HeldBatch) -> list[Batch]:
    return [
        batch
        for batch in held.queue.batches()
        if batch.is_under_way and batch.model == held.batch.model and batch.id != held.id
    ]


def _end(
    held: HeldBatch,
    state: BatchState,
    error_class: str | None = None,
    cause: str | None = None,
    *,
    hint: str | None = None,
    retry_in: timedelta | None = None,
    most_tokens: int | None = None,
    tokens: int | None = None,
) -> BatchState:
    """End a batch in the database, and report it."""
    ended = held.queue.end_batch(
        held.id,
        held.worker,
        state,
        error_class,
        cause,
        retry_in,
        most_tokens,
        tokens=tokens,
        cost=cost_of(tokens, held.api.price),
    )
    if ended is None:
        raise LeaseLost
    if state == "failed":
        held.report("batch_failed", error_class=error_class, cause=cause, hint=hint)
    elif ended.submitted_at:
        _report_collected(held, ended)
    return state


def _report_collected(held: HeldBatch, ended: Batch) -> None:
    held.report(
        "batch_collected",
        state=ended.state,
        texts=ended.texts,
        completed=ended.completed,
        failed=ended.failed,
        stale=ended.stale,
        released=ended.released,
        tokens=ended.tokens,
        cost=ended.cost,
        seconds=_seconds(ended),
    )


def _seconds(batch: Batch) -> float:
    """Seconds from the submission of a batch until it was collected."""
    if not batch.submitted_at or not batch.ended_at:
        return 0.0
    return (batch.ended_at - batch.submitted_at).total_seconds()
