"""Begins to give a column another model, or its vectors another type."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from worker.embedders.base import A_LETTER, Embedder
from worker.embedders.registry import open_embedder
from worker.errors import SettingsError
from worker.operations.estimate import Forecast
from worker.operations.reembed import OnWait, find_column, with_retries
from worker.operations.reembed_forecast import forecast_fill, too_long_for
from worker.operations.watching import find_width
from worker.queue import CallSource, Finding, Reembedding, Store, Target, VectorKind
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.reembedding.fill import find_same_model, find_too_long, sample_texts
from worker.reembedding.preflight import find_reembedding_facts, left_behind, preflight
from worker.reembedding.store import StoreChoice, choose_store
from worker.settings import Settings


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
    return with_retries(
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
    return with_retries(
        lambda: queue.convert(relation, target.named_column, kind, source, store), on_wait
    )
