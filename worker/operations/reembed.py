"""Gives a column another model, with no downtime and a way back.

The database holds the state: each step is a transaction there, and a call that was interrupted is
repeated to go on. Nothing that was embedded is embedded again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from worker.embedders.base import A_LETTER, Embedder
from worker.embedders.registry import open_embedder
from worker.errors import Busy, SettingsError
from worker.operations.backfill import backfill_column
from worker.operations.estimate import Forecast
from worker.operations.jobs import requeue
from worker.operations.reembed_forecast import forecast_fill, too_long_for
from worker.operations.watching import find_width
from worker.queue import (
    AdminQueue,
    CallSource,
    Finding,
    Reembedding,
    Store,
    Target,
    TargetStatus,
    VectorKind,
)
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.reembedding.fill import find_same_model, find_too_long, sample_texts
from worker.reembedding.preflight import find_reembedding_facts, left_behind, preflight
from worker.reembedding.store import StoreChoice, choose_store
from worker.settings import Settings

LOCK_RETRIES = 300.0  # seconds
PAUSES = (0.1, 1.0)  # seconds between two attempts, at random: readers go on in between

Result = TypeVar("Result")

OnWait = Callable[[str], None]
"""Gets the message of the database each time a step finds a lock: which table, and who has it."""


@dataclass(frozen=True, slots=True)
class StartPlan:
    """What a start would do. Nothing is changed before `start`.

    `findings` say what speaks against it, problems first. `document_prompt` is what the new model
    gets before each text. `forecast` estimates what it takes to embed all texts; None: they cannot
    be read.
    """

    target: Target
    config: EmbeddingMigrationConfig
    dimensions: int
    choice: StoreChoice
    findings: list[Finding]
    document_prompt: str
    forecast: Forecast | None

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "problem"]


def plan_start(
    queue: PostgresQueue, settings: Settings, config: EmbeddingMigrationConfig
) -> StartPlan:
    """Find out what a re-embedding would do. Calls the new model once, and changes nothing.

    Raises SettingsError if the column is not watched or a model cannot be used so, and what a
    model raises that cannot be called.
    """
    target = find_column(queue, config.source_collection)
    where = queue.database, queue.relation(target.table_name), target.embedding_column
    dimensions = find_width(config.model, config.dimensions, None, settings)
    with closing(
        open_embedder(
            config.model, dimensions, settings, config.document_prompt, config.query_prompt
        )
    ) as embedder:
        _probe(embedder, dimensions)
        sampled = sample_texts(*where)
        forecast = forecast_fill(queue, settings, target, sampled, embedder, config.batch_size)
        too_long = too_long_for(embedder, target, sampled)
    prompt = embedder.prompts.document
    found = [
        *left_behind(*where),
        *find_too_long(sampled, target, config.model, too_long),
        *find_same_model(target, config.model, dimensions, prompt),
    ]
    facts = find_reembedding_facts(*where, dimensions)
    choice = choose_store(config.store, facts)
    findings = preflight(facts, choice.store, found)
    return StartPlan(target, config, dimensions, choice, findings, prompt, forecast)


def _probe(embedder: Embedder, dimensions: int) -> None:
    """Embed a letter. Raises SettingsError unless its vector has these dimensions, and what the
    model raises."""
    embedder.probe()
    width = embedder.embed([A_LETTER], "document").vectors.shape[1]
    if width != dimensions:
        raise SettingsError(
            f"{embedder.model} gives {width} dimensions, not {dimensions}",
            f"Ask for {width} dimensions, or use another model.",
        )


def start(
    queue: PostgresQueue,
    plan: StartPlan,
    source: CallSource = "api",
    on_wait: OnWait = lambda _: None,
) -> Reembedding:
    """Begin a re-embedding: from now on each edit is embedded by both models.

    Raises SettingsError if the plan has a problem, or one is open already, and Busy if the table
    stays locked for LOCK_RETRIES.
    """
    for problem in plan.problems[:1]:
        raise SettingsError(f"{problem.subject}: {problem.cause}", problem.hint)
    config = plan.config
    relation = queue.relation(plan.target.table_name)
    asked = asdict(config) | {
        "column": config.column,
        "store": plan.choice.store,
        "store_reason": plan.choice.reason,
        "estimate": _estimated(plan.forecast),
    }
    return _with_retries(
        lambda: queue.start_reembedding(
            relation,
            plan.target.named_column,
            config.model,
            plan.dimensions,
            document_prompt=plan.document_prompt or "none",
            query_prompt=config.query_prompt,
            config=asked,
            source=source,
        ),
        on_wait,
    )


def _estimated(forecast: Forecast | None) -> dict[str, Any] | None:
    """Return what is kept of a forecast, to compare with what the fill takes."""
    if forecast is None:
        return None
    return {name: getattr(forecast, name) for name in ("texts", "tokens", "cost", "seconds")}


def convert(
    queue: PostgresQueue,
    column: str,
    kind: VectorKind,
    source: CallSource = "api",
    store: Store | None = None,
    on_wait: OnWait = lambda _: None,
) -> Reembedding:
    """Begin to give the vectors of a column another type, or another store, without a call of the
    model. `store` None: the present one.

    It reads all vectors before. Raises SettingsError if one of them does not fit, and Busy if the
    table stays locked for LOCK_RETRIES.
    """
    target = find_column(queue, column)
    relation = queue.relation(target.table_name)
    return _with_retries(
        lambda: queue.convert(relation, target.named_column, kind, source, store), on_wait
    )


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


def serving_status(queue: AdminQueue, reembedding: Reembedding) -> TargetStatus:
    """Return the progress of the vectors that serve searches."""
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


def _status_of(queue: AdminQueue, reembedding: Reembedding, column: str) -> TargetStatus:
    return next(
        each
        for each in queue.status()
        if (each.table_name, each.embedding_column) == (reembedding.table_name, column)
    )


def find_left_behind(queue: PostgresQueue, reembedding: Reembedding) -> list[Finding]:
    """Return what may use the old vectors although Postgres does not know it as a dependent."""
    relation = queue.relation(reembedding.table_name)
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
    return _with_retries(lambda: step(*where, source=source, **more), on_wait)


def _with_retries(step: Callable[[], Result], on_wait: OnWait) -> Result:
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
