"""The commands that manage watched columns: `watch`, `unwatch`, `targets`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from worker.cli.console import ProgressLine, confirmed, out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    Adopt,
    AgreeToDrop,
    AgreeToEmbed,
    AsJson,
    AsMigration,
    Chunks,
    ChunkSize,
    Context,
    CreateColumn,
    Dimensions,
    DocumentPrompt,
    EmbeddingColumn,
    Enhance,
    EnhanceOnFailure,
    EnhancePrompt,
    Filter,
    FormatOfText,
    Hybrid,
    Language,
    MatchFunction,
    Model,
    MostChunks,
    NoFilter,
    QueryPrompt,
    SizeIn,
    Source,
    StoredIn,
    TableName,
    Truncate,
)
from worker.cli.render.adoption import adoption_as_json, print_adoption
from worker.cli.render.tables import out_table
from worker.cli.render.text import NOTHING_WATCHED, cut, name_of, one_line
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.embedders.registry import check_chat_model, check_model
from worker.errors import SettingsError
from worker.operations import adoption, watching
from worker.operations.session import open_database, open_queue
from worker.operations.watch_migration import watch_migration
from worker.queue import Target, WatchOptions, WatchPreview
from worker.settings import Settings
from worker.terminal import printable

LONGEST_CHANGE = 200  # characters of a change that are shown
LONGEST_PROMPT = 100_000  # bytes that are read of a file: the database refuses fewer characters


def watch(
    table: TableName,
    column: EmbeddingColumn = "embedding",
    source: Source = None,
    model: Model = None,
    filter_sql: Filter = None,
    no_filter: NoFilter = False,
    create_column: CreateColumn = False,
    store: StoredIn = None,
    dimensions: Dimensions = None,
    truncate: Truncate = None,
    document_prompt: DocumentPrompt = None,
    query_prompt: QueryPrompt = None,
    match_function: MatchFunction = None,
    hybrid: Hybrid = None,
    language: Language = None,
    chunks: Chunks = False,
    context: Context = None,
    format: FormatOfText = None,
    chunk_size: ChunkSize = None,
    chunk_unit: SizeIn = None,
    max_chunks: MostChunks = None,
    enhance: Enhance = None,
    enhance_prompt: EnhancePrompt = None,
    enhance_on_failure: EnhanceOnFailure = None,
    adopt: Adopt = None,
    yes: AgreeToEmbed = False,
    sql: AsMigration = False,
    as_json: AsJson = False,
) -> int:
    """Keep a vector column in step with the text of its row.

    On a column that is watched already, only what is given changes.
    """
    if no_filter and filter_sql is not None:
        raise SettingsError("--filter contradicts --no-filter", "Use only one of them.")
    if create_column and (chunks or store == "table"):
        raise SettingsError(
            f"--create-column contradicts {'--chunks' if chunks else '--store table'}",
            "Leave it out: the vectors get a table of their own.",
        )
    if hybrid is False and language is not None:
        raise SettingsError("--language contradicts --no-hybrid", "Use only one of them.")
    if model not in (None, "default"):
        check_model(model)
    needs_width = create_column or chunks or store == "table"
    settings = load_settings(asks_model=needs_width and not model)
    options = WatchOptions(
        model="" if model == "default" else model,
        filter="" if no_filter else filter_sql,
        on_too_long=None if truncate is None else "truncate" if truncate else "fail",
        match_function=match_function,
        document_prompt=_prompt(document_prompt),
        query_prompt=_prompt(query_prompt),
        language="" if hybrid is False else language or None,
        chunks=chunks or None,
        context=_joined(context),
        format=format,
        chunk_size=chunk_size,
        chunk_unit=chunk_unit,
        max_chunks=max_chunks,
        enhance=_chat_model(enhance),
        enhance_prompt=_instructions(enhance_prompt),
        enhance_on_failure=enhance_on_failure,
        store=store,
    )
    wanted = watching.WatchRequest(
        table, column, _joined(source), options, create_column, dimensions, hybrid is True
    )
    if sql:
        return _print_migration(settings, wanted, adopt, as_json)
    if adopt:
        return _adopt(settings, wanted, adopt, as_json)
    return _watch(settings, wanted, yes, as_json)


def _print_migration(
    settings: Settings, wanted: watching.WatchRequest, adopt: str | None, as_json: bool
) -> int:
    if as_json:
        raise SettingsError("--json contradicts --sql", "Use only one of them.")
    if adopt:
        wanted = adoption.adopting(wanted, adopt)
    out(*watch_migration(settings, wanted).splitlines())
    if adopt:
        say("hint: when it is applied, the same command without --sql adopts the vectors")
    return 0


def _watch(settings: Settings, wanted: watching.WatchRequest, yes: bool, as_json: bool) -> int:
    with open_database(settings) as queue:
        plan = watching.plan_watch(queue, settings, wanted)
        _agree(plan.preview, yes)
        target = plan.apply("cli")
        if not as_json:
            out(f"Watching: {name_of(target)} <- {target.source}")
        plan.build_index(target, _say_building)
    if as_json:
        out_json({"target": asdict(target), "adoption": None})
    say("hint: to embed existing rows, run `worker backfill`, then `worker process`")
    return 0


def _adopt(settings: Settings, wanted: watching.WatchRequest, model: str, as_json: bool) -> int:
    progress = ProgressLine()
    with open_database(settings) as queue, stopped_by_signals("this range") as stop:
        say(f"comparing up to {adoption.SAMPLE} vectors with {printable(model)}")
        plan = adoption.plan_adoption(queue, settings, wanted, model)
        _show_changes(plan.watch.preview)
        done = plan.apply(
            stop=stop, on_range=lambda far: progress.say(f"adopted {far} so far"), source="cli"
        )
        plan.watch.build_index(done.target, _say_building)
    if as_json:
        out_json(adoption_as_json(done))
    else:
        out(f"Watching: {name_of(done.target)} <- {done.target.source}")
        print_adoption(done)
    return INTERRUPTED if stop.is_set() else int(not done.is_finished)


def _say_building() -> None:
    say("building the index over the words; writers go on")


def _joined(columns: list[str] | None) -> str | None:
    """Return what was given several times as watch_embeddings takes it."""
    return ", ".join(columns) if columns else None


def _prompt(given: str | None) -> str | None:
    """Return a prompt as watch_embeddings takes it."""
    return "" if given == "default" else given or None


def _chat_model(given: str | None) -> str | None:
    """Return a chat model as watch_embeddings takes it. Raises SettingsError if there is none."""
    if given in (None, "none"):
        return None if given is None else ""
    check_chat_model(given)
    return given


def _instructions(file: Path | None) -> str | None:
    """Return what a file says to a chat model. Raises SettingsError if it cannot be read."""
    if file is None:
        return None
    try:
        return file.read_bytes()[:LONGEST_PROMPT].decode("utf-8-sig").strip()
    except OSError as problem:
        cause, cure = problem.strerror or type(problem).__name__, "Give the path of a text file."
    except UnicodeDecodeError:
        cause, cure = "it is not written in UTF-8", "Save it as UTF-8."
    raise SettingsError(f"cannot read {printable(str(file))}: {cause}", cure)


def _agree(preview: WatchPreview, yes: bool) -> None:
    """Show what changes. Raises SettingsError unless the person agrees to embed rows again."""
    _show_changes(preview)
    if not preview.to_embed:
        return
    rows = "1 row" if preview.to_embed == 1 else f"{preview.to_embed} rows"
    if yes:
        say(f"{rows} will be embedded again")
    elif not confirmed(f"{rows} will be embedded again. Continue?"):
        raise SettingsError(
            f"{rows} would be embedded again, so nothing was changed", "Add --yes to agree."
        )


def _show_changes(preview: WatchPreview) -> None:
    for change in preview.changes:
        say(f"change: {cut(printable(change), LONGEST_CHANGE)}")


def _agree_to_drop(target: Target) -> None:
    """Raises SettingsError unless the person agrees to drop the vectors, with their chunks."""
    lost = f"the {'chunks and ' * (target.store == 'chunks')}vectors of {name_of(target)}"
    if not confirmed(f"This drops {lost}. Continue?"):
        raise SettingsError(
            f"{lost} would be dropped, so nothing was changed", "Add --yes to agree."
        )


def unwatch(table: TableName, column: EmbeddingColumn, yes: AgreeToDrop = False) -> None:
    """Stop keeping a column in step. Its vectors stay; a side table and chunks are dropped."""
    with open_database(load_settings()) as queue:
        target = queue.target(table, column)
        if target.store != "column" and not yes:
            _agree_to_drop(target)
        watching.unwatch(queue, table, column, "cli")
    out(f"Unwatched: {table}.{column}")


def targets(as_json: AsJson = False) -> None:
    """List the watched columns."""
    with open_queue(load_settings()) as queue:
        found = queue.targets()
    if as_json:
        out_json([asdict(target) for target in found])
        return
    if not found:
        say(NOTHING_WATCHED)
        return
    optional = {
        "side table": [target.store_relation for target in found],
        "enhanced by": [target.enhance_model for target in found],
        "stands for": [_format_role(target) for target in found],
    }
    shown = {head: cells for head, cells in optional.items() if any(cells)}
    out_table(
        ["table", "column", "source", "filter", "model", "width", "chunks", *shown],
        [
            (
                target.table_name,
                target.embedding_column,
                one_line(target.source, 40),
                target.filter and one_line(target.filter, 30),
                _format_model(target),
                target.dimensions,
                _format_chunks(target),
                *(cells[place] for cells in shown.values()),
            )
            for place, target in enumerate(found)
        ],
    )


def _format_role(target: Target) -> str | None:
    """The column that people name and what this one is to it, if it is re-embedded."""
    if target.is_serving and target.serves is None:
        return None
    return f"{target.named_column} ({target.role})"


def _format_chunks(target: Target) -> str | None:
    """The format and the size of the chunks of a column in chunks."""
    if target.chunk_format is None:
        return None
    unit = " tokens" if target.chunk_unit == "tokens" else ""
    return f"{target.chunk_format} {target.chunk_size}{unit}"


def _format_model(target: Target) -> str:
    """The model of a column, marked as default if nobody named it."""
    if target.model is None:
        return "(default)"
    return f"{target.model} (default)" if target.model_is_default else target.model
