"""The commands that give a column another model: `reembed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from worker.cli.console import ProgressLine, confirmed, out, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AgreeToCancel,
    AgreeToConvert,
    AgreeToFinish,
    AgreeToStart,
    AsJson,
    ComparedBy,
    ConfigFile,
    ConvertedStore,
    Detach,
    DocumentPrompt,
    NamedColumn,
    NewModel,
    NewStore,
    NewWidth,
    OpenColumn,
    PlanOnly,
    QueryPrompt,
    RenameColumn,
    ReportFiles,
    Unverified,
    VectorType,
)
from worker.cli.render.indexing import script_without_session, show_build
from worker.cli.render.progress import show_progress
from worker.cli.render.reembedding import (
    LACKING,
    Status,
    next_step,
    print_findings,
    print_plan,
    print_statuses,
    stage_of,
)
from worker.cli.render.verification import check_reports, show_verifications
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.errors import SettingsError
from worker.evaluation.judgments import JudgedQuery, read_queries
from worker.operations import reembed, reembed_start
from worker.operations.reembed_stages import Reembedder, StageOptions, stage_options
from worker.operations.session import open_database, open_queue
from worker.queue import AdminQueue, Reembedding
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.settings import Settings
from worker.terminal import printable

EXAMPLE = EmbeddingMigrationConfig(
    source_collection="docs.embedding", model="openai:text-embedding-3-large", dimensions=1024
)


def create_config() -> None:
    """Print a configuration with all its keys."""
    out(*EXAMPLE.as_json().splitlines())


def start(
    column: NamedColumn,
    model: NewModel = None,
    dimensions: NewWidth = None,
    store: NewStore = None,
    document_prompt: DocumentPrompt = None,
    query_prompt: QueryPrompt = None,
    config: ConfigFile = None,
    queries: ComparedBy = None,
    detach: Detach = False,
    dry_run: PlanOnly = False,
    yes: AgreeToStart = False,
) -> int:
    """Fill a second column or a side table with vectors of another model, index and verify it."""
    wanted = _configured(config, column, model, dimensions)
    wanted = replace(
        wanted,
        store=store or wanted.store,
        document_prompt=document_prompt or wanted.document_prompt,
        query_prompt=query_prompt or wanted.query_prompt,
    )
    options = replace(stage_options(wanted), queries=_queries(queries))
    settings = load_settings()
    with open_database(settings) as queue:
        plan = reembed_start.plan_start(queue, settings, wanted)
        print_plan(plan, out if dry_run else say)
        if dry_run:
            return int(bool(plan.problems))
        if not plan.problems:
            _agree_to_embed(yes)
        begun = reembed_start.start(queue, plan, "cli", ProgressLine().say)
        say(f"begun: {printable(begun.named)} gets vectors of {begun.new_model}")
        return _leave(queue, begun) if detach else _run(queue, settings, begun, options)


def _agree_to_embed(yes: bool) -> None:
    """Raises SettingsError unless the person agrees to embed all texts again."""
    if not yes and not confirmed("Embed all texts with it?"):
        raise SettingsError(
            "all texts would be embedded again, so nothing was begun", "Add --yes to agree."
        )


def convert(
    column: NamedColumn,
    to: VectorType,
    store: ConvertedStore = None,
    yes: AgreeToConvert = False,
) -> int:
    """Give the vectors of a column another type, without calling the model."""
    settings = load_settings()
    with open_database(settings) as queue:
        if not yes and not confirmed(f"Store all vectors a second time, as {to}?"):
            raise SettingsError("all vectors would be stored a second time", "Add --yes to agree.")
        begun = reembed_start.convert(queue, column, to, "cli", store, ProgressLine().say)
        return _run(queue, settings, begun, StageOptions())


def status(column: OpenColumn = None, as_json: AsJson = False) -> None:
    """Show the state of re-embeddings, and what to do next."""
    with open_queue(load_settings()) as queue:
        known = queue.reembeddings()
        found = [each for each in known if column is None or reembed.is_named(each, column)]
        if column and not found:
            raise SettingsError(
                f"column {column} is not re-embedded",
                "`worker reembed status` shows all re-embeddings.",
            )
        print_statuses([_status(queue, each) for each in found], as_json)


def _status(queue: AdminQueue, reembedding: Reembedding) -> Status:
    return Status(
        reembedding,
        queue.reembedding_progress(reembedding),
        reembed.old_status(queue, reembedding),
        queue.reembedding_usage(reembedding),
        queue.reembedding_events(reembedding),
    )


def pause(column: OpenColumn = None) -> None:
    """Stop filling the new vectors. Edits are queued meanwhile."""
    with open_database(load_settings()) as queue:
        _show(reembed.pause(queue, reembed.find_reembedding(queue, column), "cli"))


def resume(column: OpenColumn = None, queries: ComparedBy = None, detach: Detach = False) -> int:
    """Go on with what is left, also after a pause or a crash."""
    judged = _queries(queries)
    settings = load_settings()
    with open_database(settings) as queue:
        found = reembed.find_reembedding(queue, column)
        if detach and found.is_cast:
            raise SettingsError(
                f"only this command fills the new vectors of {found.named}, by a cast",
                "Leave out --detach.",
            )
        found = reembed.resume(queue, found, "cli")
        if detach:
            return _leave(queue, found)
        options = replace(stage_options(reembed.config_of(found)), queries=judged)
        return _run(queue, settings, found, options)


def verify(
    column: OpenColumn = None,
    queries: ComparedBy = None,
    as_json: AsJson = False,
    report: ReportFiles = None,
) -> int:
    """Compare the new vectors with their texts and with the old ones."""
    reports = report or []
    check_reports(reports)
    options = StageOptions(queries=_queries(queries))
    settings = load_settings()
    with open_database(settings) as queue:
        found = reembed.find_reembedding(queue, column)
        if found.state not in ("verifying", "ready", "swapped"):
            raise SettingsError(
                f"the new vectors of {found.named} are not filled and indexed: it is {found.state}",
                "`worker reembed resume` goes on with that.",
            )
        stages = Reembedder(queue, settings, options, "cli")
        result = stages.verify(found)
        show_verifications([result], as_json, reports)
        _show(stages.judge(found, result), say if as_json else out)
    return int(not result.passed)


def retry_failed(column: OpenColumn = None) -> None:
    """Make the failed jobs of the new vectors pending again."""
    with open_database(load_settings()) as queue:
        count = reembed.retry_failed(queue, reembed.find_reembedding(queue, column), "cli")
    out(f"Requeued: {count}")


def swap(column: OpenColumn = None, no_verify: Unverified = False) -> None:
    """Let the new vectors serve searches, at once and without a lock on the table."""
    with open_database(load_settings()) as queue:
        found = reembed.find_reembedding(queue, column)
        waiting = ProgressLine()
        swapped = reembed.swap(queue, found, "cli", verified=not no_verify, on_wait=waiting.say)
        _show_serving(queue, swapped)


def rollback(column: OpenColumn = None) -> None:
    """Let the old vectors serve again, which were kept in step."""
    with open_database(load_settings()) as queue:
        found = reembed.find_reembedding(queue, column)
        _show_serving(queue, reembed.roll_back(queue, found, "cli", ProgressLine().say))


def cleanup(
    column: OpenColumn = None, rename: RenameColumn = False, yes: AgreeToFinish = False
) -> None:
    """Drop the old vectors after a swap. There is no way back from it."""
    waiting = ProgressLine()
    with open_database(load_settings()) as queue:
        found = reembed.find_reembedding(queue, column)
        if found.state == "swapped":
            _agree_to_drop(queue, found, yes)
        _show(reembed.finish(queue, found, "cli", rename=rename, on_wait=waiting.say))


def _agree_to_drop(queue: PostgresQueue, reembedding: Reembedding, yes: bool) -> None:
    """Say what may use the old vectors. Raises SettingsError unless the person agrees."""
    print_findings(reembed.find_left_behind(queue, reembedding), say)
    question = f"Drop the vectors of {reembedding.old_model} in {reembedding.old_column}?"
    if not yes and not confirmed(question):
        raise SettingsError("the old vectors would be dropped", "Add --yes to agree.")


def cancel(column: OpenColumn = None, yes: AgreeToCancel = False) -> None:
    """Drop the new vectors before a swap, and keep the old ones."""
    waiting = ProgressLine()
    with open_database(load_settings()) as queue:
        found = reembed.find_reembedding(queue, column)
        if not yes and not confirmed(f"Drop the vectors of {found.new_model}?"):
            raise SettingsError("the new vectors would be dropped", "Add --yes to agree.")
        _show(reembed.cancel(queue, found, "cli", on_wait=waiting.say))


def _leave(queue: PostgresQueue, reembedding: Reembedding) -> int:
    """Leave the filling to running workers."""
    if reembedding.state == "filling":
        say(f"enqueued: {reembed.enqueue(queue, reembedding)}")
    _show(reembedding)
    return 0


def _run(
    queue: PostgresQueue, settings: Settings, reembedding: Reembedding, options: StageOptions
) -> int:
    """Run the stages that are left, with progress on stderr."""
    interval = settings.embedding_progress_interval
    with stopped_by_signals() as stop:
        stages = Reembedder(
            queue,
            settings,
            options,
            "cli",
            stop,
            on_stage=lambda now: say(stage_of(now)),
            show_fill=lambda total: show_progress(total, interval),
            show_index=show_build,
        )
        with script_without_session():
            reembedding = stages.run(reembedding)
    if stages.verification:
        show_verifications([stages.verification])
    elif reembedding.problem:
        say(f"problem: {reembedding.problem}")
    last = "ready" if options.verifies else "verifying"
    is_done = reembedding.state in (last, "ready", "swapped")
    if stop.is_set() and not is_done:
        say("interrupted")
    _show(reembedding)
    return 0 if is_done else INTERRUPTED if stop.is_set() else 1


def _configured(
    file: Path | None, column: str, model: str | None, dimensions: int | None
) -> EmbeddingMigrationConfig:
    """Return the configuration in a file, in which options take precedence."""
    if file is None:
        if model is None:
            raise SettingsError("the new model is not given", "Add --model, or --config FILE.")
        return EmbeddingMigrationConfig(
            source_collection=column, model=model, dimensions=dimensions
        )
    config = EmbeddingMigrationConfig.from_json(file)
    if config.source_collection != column:
        raise SettingsError(
            f"the configuration is for {config.source_collection}, not for {column}",
            "Name its column, or correct the file.",
        )
    return replace(config, model=model or config.model, dimensions=dimensions or config.dimensions)


def _queries(file: Path | None) -> list[JudgedQuery]:
    return read_queries(file, None, need_judgments=False) if file else []


def _show_serving(queue: PostgresQueue, reembedding: Reembedding) -> None:
    """Print the state, and what the vectors that serve now still lack."""
    _show(reembedding)
    serving = reembed.serving_status(queue, reembedding)
    left = [f"{count} {name}" for name in LACKING if (count := getattr(serving, name, 0))]
    if left:
        say(
            f"warning: of the vectors that serve, not all are those of the texts: {', '.join(left)}"
        )


def _show(reembedding: Reembedding, show: Callable[[str], None] = out) -> None:
    show(f"{printable(reembedding.named)}: {reembedding.state}")
    if step := next_step(reembedding):
        say(f"hint: {step}")
