"""Gives a column another model, with no downtime and a way back.

The database holds the state: each step is a transaction there, and a call that was interrupted is
repeated to go on. Nothing that was embedded is embedded again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from worker.errors import Busy, SettingsError
from worker.operations.backfill import backfill_column
from worker.operations.jobs import requeue
from worker.queue import (
    AdminQueue,
    CallSource,
    Finding,
    Reembedding,
    Target,
    TargetStatus,
)
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.reembedding.preflight import left_behind

LOCK_RETRIES = 300.0  # seconds
PAUSES = (0.1, 1.0)  # seconds between two attempts, at random: readers go on in between

Result = TypeVar("Result")

OnWait = Callable[[str], None]
"""Gets the message of the database each time a step finds a lock: which table, and who has it."""


def enqueue(queue: PostgresQueue, reembedding: Reembedding) -> int:
    """Enqueue all texts for the new vectors, for whichever worker runs. Returns how many."""
    target = queue.target(reembedding.table_name, reembedding.new_column)
    return backfill_column(queue, target, JOBS_IN_ONE_CALL)


def find_column(queue: AdminQueue, name: str) -> Target:
    """Return the serving target of a column, `table.column`, or of a table that has only one.

    Raises SettingsError if there is none.
    """
    serving = [target for target in queue.targets() if target.role == "serving"]
    exact = [each for each in serving if each.public_name == name]
    of_table = [each for each in serving if each.table_name == name]
    found = exact or of_table
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingsError(
            f"table {name} has {len(found)} watched columns",
            f"Name one of them, like {name}.{found[0].named_column}.",
        )
    raise SettingsError(
        f"column {name} is not watched",
        "Write table.column; `worker targets` lists the watched columns.",
    )


def config_of(reembedding: Reembedding) -> EmbeddingMigrationConfig:
    """Return the configuration that a re-embedding was begun with. Raises SettingsError."""
    known = {field.name for field in fields(EmbeddingMigrationConfig)}
    config = reembedding.config or {}
    begun = {name: value for name, value in config.items() if name in known and value is not None}
    return EmbeddingMigrationConfig(
        **{"source_collection": reembedding.named, "model": reembedding.new_model, **begun}
    )


def find_reembedding(queue: PostgresQueue, name: str | None) -> Reembedding:
    """Return the latest re-embedding of a column; without a name, the only one that is open.

    Raises SettingsError if there is none.
    """
    known = queue.reembeddings()
    if name is None:
        found = [each for each in known if each.ended_at is None]
        if len(found) > 1:
            columns = ", ".join(each.named for each in found)
            raise SettingsError("several columns are re-embedded", f"Name one of {columns}.")
    else:
        found = [each for each in known if is_named(each, name)][-1:]
    if not found:
        raise SettingsError(
            f"column {name} is not re-embedded" if name else "no column is re-embedded",
            "`worker reembed start TABLE.COLUMN --model MODEL` begins one.",
        )
    return found[0]


def find_open(queue: PostgresQueue, name: str) -> Reembedding | None:
    """Return the re-embedding of a column that is neither finished nor cancelled, if any."""
    known = [each for each in queue.reembeddings() if each.ended_at is None]
    return next((each for each in known if is_named(each, name)), None)


def is_named(reembedding: Reembedding, name: str) -> bool:
    """Whether somebody who names a column, or its table, means this one."""
    return name in (reembedding.named, reembedding.table_name)


def check_same(reembedding: Reembedding, config: EmbeddingMigrationConfig) -> None:
    """Raise SettingsError if what was begun makes other vectors than a configuration wants."""
    begun = reembedding.config or {}
    same = (
        reembedding.new_model == config.model
        and config.dimensions in (None, reembedding.dimensions)
        and begun.get("document_prompt") == config.document_prompt
    )
    if not same:
        raise SettingsError(
            f"{reembedding.named} is re-embedded with {reembedding.new_model},"
            f" {reembedding.dimensions} dimensions, and not as the configuration says",
            "Cancel that first, or correct the configuration.",
        )


def pause(
    queue: PostgresQueue, reembedding: Reembedding, source: CallSource = "api"
) -> Reembedding:
    """Stop filling the new vectors. Edits are queued meanwhile."""
    return queue.pause_reembedding(
        reembedding.table_name, reembedding.embedding_column, source=source
    )


def resume(
    queue: PostgresQueue, reembedding: Reembedding, source: CallSource = "api"
) -> Reembedding:
    """Go on filling the new vectors, if that was paused or texts were requeued since."""
    if reembedding.state == "paused":
        return queue.resume_reembedding(
            reembedding.table_name, reembedding.embedding_column, source=source
        )
    pending = queue.reembedding_progress(reembedding).pending
    if pending and reembedding.state in ("indexing", "verifying"):
        return queue.advance_reembedding(
            reembedding, "filling", source=source, figures={"pending": pending}
        )
    return reembedding


def retry_failed(queue: PostgresQueue, reembedding: Reembedding, source: CallSource = "api") -> int:
    """Make the failed jobs of the new vectors pending again. Returns how many.

    Running workers do them, or `resume` and the stages after it.
    """
    return requeue(
        queue, table=reembedding.table_name, column=reembedding.new_column, source=source
    )


def swap(
    queue: PostgresQueue,
    reembedding: Reembedding,
    source: CallSource = "api",
    *,
    verified: bool = True,
    on_wait: OnWait = lambda _: None,
) -> Reembedding:
    """Let the new vectors serve searches. It locks no table.

    Raises SettingsError unless they are verified; with `verified` false, unless they are filled.
    Raises Busy if their settings stay locked for LOCK_RETRIES.
    """
    figures = None if verified else {"verified": False}
    return _take(queue.swap_reembedding, reembedding, source, on_wait, figures=figures)


def roll_back(
    queue: PostgresQueue,
    reembedding: Reembedding,
    source: CallSource = "api",
    on_wait: OnWait = lambda _: None,
) -> Reembedding:
    """Let the old vectors serve again, which were kept in step. Raises Busy as `swap` does."""
    return _take(queue.rollback_reembedding, reembedding, source, on_wait)


def serving_status(queue: AdminQueue, reembedding: Reembedding) -> TargetStatus | None:
    """Return the progress of the vectors that serve searches; None: they are gone by now."""
    is_new = reembedding.state == "swapped"
    return _status_of(
        queue, reembedding, reembedding.new_column if is_new else reembedding.old_column
    )


def old_status(queue: AdminQueue, reembedding: Reembedding) -> TargetStatus | None:
    """Return the progress of the old vectors while they are kept in step after a swap, else
    None."""
    if reembedding.state != "swapped":
        return None
    return _status_of(queue, reembedding, reembedding.old_column)


def _status_of(queue: AdminQueue, reembedding: Reembedding, column: str) -> TargetStatus | None:
    named = (reembedding.table_name, column)
    found = [each for each in queue.status() if (each.table_name, each.embedding_column) == named]
    return found[0] if found else None


def find_left_behind(queue: PostgresQueue, reembedding: Reembedding) -> list[Finding]:
    """Return what may use the old vectors although Postgres does not know it as a dependent.

    Nothing, if their table is gone.
    """
    try:
        relation = queue.relation(reembedding.table_name)
    except SettingsError:
        return []
    return left_behind(queue.database, relation, reembedding.old_column)


def cancel(
    queue: PostgresQueue,
    reembedding: Reembedding,
    source: CallSource = "api",
    on_wait: OnWait = lambda _: None,
) -> Reembedding:
    """Drop the new vectors, before a swap.

    Raises Busy if the table stays locked for LOCK_RETRIES.
    """
    return _take(queue.cancel_reembedding, reembedding, source, on_wait)


def finish(
    queue: PostgresQueue,
    reembedding: Reembedding,
    source: CallSource = "api",
    *,
    rename: bool = False,
    on_wait: OnWait = lambda _: None,
) -> Reembedding:
    """Drop the old vectors, after a swap; with `rename`, the new column gets their name.

    A finished re-embedding can be renamed later. Raises SettingsError while anything depends on the
    old column, and Busy if the table stays locked for LOCK_RETRIES.
    """
    if reembedding.state != "finished":
        reembedding = _take(queue.finish_reembedding, reembedding, source, on_wait)
    if rename:
        _relabel(queue, reembedding)
        reembedding = _take(queue.rename_reembedded, reembedding, source, on_wait)
    return reembedding


def _relabel(queue: PostgresQueue, reembedding: Reembedding) -> None:
    """Rename the jobs of a column before the column itself, so that the table is locked briefly."""
    if queue.check_schema() < 0:
        return  # the schema has no function for it: the rename does it
    after: int | None = 0
    while after is not None:
        after = queue.relabel_reembedded(
            reembedding.table_name, reembedding.embedding_column, after
        )


def _take(
    step: Callable[..., Reembedding],
    reembedding: Reembedding,
    source: CallSource,
    on_wait: OnWait,
    **more: Any,
) -> Reembedding:
    """Take a step of a re-embedding, as soon as it gets its lock."""
    where = reembedding.table_name, reembedding.embedding_column
    return with_retries(lambda: step(*where, source=source, **more), on_wait)


def with_retries(step: Callable[[], Result], on_wait: OnWait) -> Result:
    """Repeat a step until it gets its lock. A step waits only a moment for it: while it waits, all
    others that need the table wait behind it."""
    give_up_at = time.monotonic() + LOCK_RETRIES
    while True:
        try:
            return step()
        except Busy as busy:
            if time.monotonic() > give_up_at:
                raise
            on_wait(busy.cause)
        time.sleep(random.uniform(*PAUSES))
