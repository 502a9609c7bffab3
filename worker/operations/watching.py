"""Keeps columns in step with the text of their rows, and stops doing so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from worker.embedders.registry import check_model, open_embedder, own_prompts
from worker.errors import SettingsError
from worker.queue import CallSource, Target, WatchOptions, WatchPreview, searched_by
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

DEFAULT_LANGUAGE = "english"


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A column to watch, and how.

    `create_column`: add the vector column, as wide as the model, or `dimensions` wide. `hybrid`:
    searches use the words of the text as well, in English if it has no other language.
    """

    table: str
    column: str
    source: str | None = None
    options: WatchOptions = field(default_factory=WatchOptions)
    create_column: bool = False
    dimensions: int | None = None
    hybrid: bool = False

    @property
    def needs_width(self) -> bool:
        """Whether vectors get a new place, which needs the width of the model."""
        options = self.options
        return self.create_column or bool(options.get("chunks")) or options.get("store") == "table"

    def language(self, before: Target | None) -> str | None:
        """Return the language of the column, as watch_embeddings takes it."""
        given = self.options.get("language")
        needs_default = self.hybrid and not given and not (before and before.language)
        return DEFAULT_LANGUAGE if needs_default else given


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What watching a column would change. Nothing is changed before `apply`.

    `before`: the column as it is watched now; None: it is not.
    """

    queue: PostgresQueue
    request: WatchRequest
    preview: WatchPreview
    before: Target | None

    def apply(self, audit_source: CallSource = "api") -> Target:
        """Watch the column as planned. The index over its words is built by `build_index`."""
        wanted = self.request
        return self.queue.watch(
            wanted.table,
            wanted.source,
            wanted.column,
            audit_source=audit_source,
            **wanted.options,
        )

    def build_index(self, target: Target, on_start: Callable[[], None] = lambda: None) -> None:
        """Build the index that a column with a language needs, if it is not there.

        It blocks no writers, and may take minutes. `on_start` is called before. After an
        interruption, the next call starts the build again.
        """
        statements = self.queue.full_text_statements(target)
        if statements:
            on_start()
        for statement in statements:
            self.queue.run_script(statement)


def watch(
    queue: PostgresQueue,
    settings: Settings,
    table: str,
    column: str,
    *,
    source: str | None = None,
    create_column: bool = False,
    dimensions: int | None = None,
    options: WatchOptions | None = None,
) -> Target:
    """Keep a vector column in step with `source`, a column or an SQL expression over the row.

    On a column that is watched already, only what is given changes. If that makes its vectors
    unusable, they are cleared and embedded again: `plan_watch` shows this before. With a language
    in the options, it returns when the index over the words is built.
    """
    options = options or WatchOptions()
    if model := options.get("model"):
        check_model(model)
    request = WatchRequest(table, column, source, options, create_column, dimensions)
    plan = plan_watch(queue, settings, request)
    target = plan.apply()
    plan.build_index(target)
    return target


def plan_watch(queue: PostgresQueue, settings: Settings, wanted: WatchRequest) -> WatchPlan:
    """Find out what watching a column would change. Calls the model if its width is not known.

    Raises SettingsError if the column cannot be watched in this way.
    """
    before = _watched(queue, wanted)
    options = _with_own_prompt(settings, wanted, before)
    options = options | WatchOptions(enhance=_chat_model(settings, options, before))
    options = options | WatchOptions(language=wanted.language(before))
    if wanted.needs_width:
        options = options | WatchOptions(dimensions=_width_to_create(before, settings, wanted))
    preview = queue.preview_watch(
        wanted.table, wanted.source, wanted.column, settings.embedding_model, **options
    )
    if wanted.dimensions not in (None, preview.width):
        raise SettingsError(
            f"column {wanted.column} holds {preview.width or 'any number of'} dimensions,"
            f" not {wanted.dimensions}",
            "Leave out --dimensions, or add another column with --create-column.",
        )
    planned = WatchRequest(wanted.table, wanted.column, wanted.source, options)
    return WatchPlan(queue, planned, preview, before)


def _with_own_prompt(
    settings: Settings, wanted: WatchRequest, before: Target | None
) -> WatchOptions:
    """Write out what "" means as a document prompt, so that a column that has it is not changed."""
    options = wanted.options
    is_same_model = before and options.get("model") in (None, "", before.model)
    if options.get("document_prompt") != "" or not before or not before.model or not is_same_model:
        return options
    own = own_prompts(before.model, settings).document
    return options | WatchOptions(document_prompt=own or "none")


def _chat_model(settings: Settings, options: WatchOptions, before: Target | None) -> str | None:
    """Return the chat model of the column: a new one has that of the settings, if they say so."""
    given = options.get("enhance")
    is_wanted = settings.enable_llm_enhancement and given is None and not before
    return f"ollama:{settings.ollama_llm_model}" if is_wanted else given


def unwatch(queue: PostgresQueue, table: str, column: str, source: CallSource = "api") -> None:
    """Stop keeping a column in step. Its vectors stay; a side table and chunks are dropped.

    Raises SettingsError if it is not watched.
    """
    if not queue.unwatch(table, column, source=source):
        raise SettingsError(
            f"column {column} of table {table} is not watched",
            "`worker targets` lists the watched columns.",
        )


def _width_to_create(before: Target | None, settings: Settings, wanted: WatchRequest) -> int:
    """Return the width of the column: an existing one keeps its width if the model supports it."""
    model = wanted.options.get("model")
    present = before.dimensions if before else None
    kept = before.model if before and model is None else None
    return find_width(
        model or kept or settings.embedding_model, wanted.dimensions, present, settings
    )


def _watched(queue: PostgresQueue, wanted: WatchRequest) -> Target | None:
    """Return the present target; None if the column is not watched."""
    name = queue.table_name(wanted.table)
    targets = [target for target in queue.targets() if target.table_name == name]
    for target in targets:
        if target.embedding_column == wanted.column:
            return target
    return next(iter(searched_by(targets, wanted.column)), None)


def find_width(model: str, dimensions: int | None, present: int | None, settings: Settings) -> int:
    """Return the width of a model's vectors. Embeds one letter if it is not known.

    `dimensions`: the width to ask for; None: that of the column at present, if it has one. Raises
    SettingsError if the model cannot be asked for `dimensions`.
    """
    with closing(open_embedder(model, dimensions or present, settings)) as embedder:
        embedder.probe()
        assert embedder.dimensions is not None  # otherwise it would have raised
        if dimensions not in (None, embedder.dimensions):
            raise SettingsError(
                f"{model} gives {embedder.dimensions} dimensions and cannot be asked for"
                f" {dimensions}",
                "Leave out --dimensions, or use a model that can be shortened;"
                " docs/providers.md lists some.",
            )
        return embedder.dimensions
