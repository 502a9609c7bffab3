"""Targets: the watched columns, and how a person names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from worker.errors import Busy, DatabaseError, SettingsError, Unreachable

OnTooLong = Literal["fail", "truncate"]
ChunkFormat = Literal["markdown", "text", "html", "code"]
ChunkUnit = Literal["characters", "tokens"]
OnFailure = Literal["wait", "raw"]
Store = Literal["column", "table"]
TargetKind = Literal["embed", "parse"]
TargetRole = Literal["serving", "shadow", "retired"]
NAMELESS = "''"
"""How an empty name is shown, most likely from a variable of a script that is not set."""


@dataclass(frozen=True, slots=True)
class Target:
    """A watched column; or, of the `kind` parse, the column that gets the texts of files.

    `serves` is the column that people name, if that is not this one. Searches for it use its
    `serving` target; while it is re-embedded it has a second one, `shadow` before a swap and
    `retired` after it.

    `model` made all of its vectors; None: it has none yet, and gets those of the worker's default.
    `model_is_default`: nobody chose that model, it was the default of the first worker. A prompt
    that is None is the model's own; "" is none. `language` is that of the words in searches; None:
    they use vectors only. A target in chunks has a `chunk_format`, and chunks of at most
    `chunk_size` characters or tokens; `context` is SQL for what is put before each. If it has an
    `enhance_model`, that chat model writes, by `enhance_prompt`, what is embedded with or instead
    of the text. `store_relation` is the side table of its vectors, as SQL names it; None: they are
    in the watched table, or in chunks.
    """

    table_name: str
    embedding_column: str
    kind: TargetKind
    serves: str | None
    role: TargetRole
    source: str
    filter: str | None
    model: str | None
    document_prompt: str | None
    query_prompt: str | None
    model_is_default: bool
    dimensions: int | None
    language: str | None
    context: str | None
    chunk_format: ChunkFormat | None
    chunk_size: int | None
    chunk_unit: ChunkUnit | None
    max_chunks: int | None
    enhance_model: str | None
    enhance_prompt: str | None
    enhance_on_failure: OnFailure | None
    store_relation: str | None
    enabled: bool
    problem: str | None

    @property
    def named(self) -> str:
        """The name of the column in the database, with its table."""
        return f"{self.table_name}.{self.embedding_column}"

    @property
    def named_column(self) -> str:
        """The name of the column that people use."""
        return self.serves or self.embedding_column

    @property
    def public_name(self) -> str:
        """The name of the column that people use, with its table."""
        return f"{self.table_name}.{self.named_column}"

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments by which functions of the SQL API name the column."""
        return {"watched_table": self.table_name, "embedding_column": self.embedding_column}

    @property
    def store(self) -> Literal["column", "table", "chunks"]:
        """Where its vectors are: in the watched table, in a side table, or in chunks."""
        return "table" if self.store_relation else "chunks" if self.chunk_format else "column"

    @property
    def searched_model(self) -> str | None:
        """The model by which a search finds this target, also beside another one of this model:
        with the document prompt after a `#`."""
        if self.model is None or self.document_prompt is None:
            return self.model
        return f"{self.model}#{self.document_prompt}"

    @property
    def is_serving(self) -> bool:
        return self.role == "serving"

    def accepts(self, default_model: str) -> bool:
        """Whether a worker with this default model works on the column."""
        return not self.model_is_default or self.model in (None, default_model)


class WatchOptions(TypedDict, total=False):
    """The options of watch_embeddings. None keeps what the target has; "" removes it.

    A prompt that is "none" is none; "" is the model's own. `enhance` is a chat model; an
    `enhance_prompt` that is "" is the default. The `store` of a column that is watched cannot be
    changed.
    """

    model: str | None
    filter: str | None
    dimensions: int | None
    on_too_long: OnTooLong | None
    match_function: bool | None
    document_prompt: str | None
    query_prompt: str | None
    language: str | None
    chunks: bool | None
    context: str | None
    format: ChunkFormat | None
    chunk_size: int | None
    chunk_unit: ChunkUnit | None
    max_chunks: int | None
    enhance: str | None
    enhance_prompt: str | None
    enhance_on_failure: OnFailure | None
    store: Store | None


@dataclass(frozen=True, slots=True)
class WatchPreview:
    """The effect of watching a column. `width`: of the column; None: it has none.

    `changes`: one line for each setting that changes. `to_embed`: how many records would be
    embedded again.
    """

    is_watched: bool
    width: int | None
    changes: list[str]
    to_embed: int


def other_model(target: Target, default_model: str) -> SettingsError | None:
    """Why a worker with this default model does not work on a column; None: it does."""
    if target.accepts(default_model):
        return None
    return SettingsError(
        f"column {target.embedding_column} of table {target.table_name} holds vectors of"
        f" {target.model}, and EMBEDDING_MODEL is {default_model}: it is skipped",
        f"Set EMBEDDING_MODEL={target.model}, or name the model of this column: `worker watch …"
        f" --model {target.model}` keeps its vectors, `worker watch … --model {default_model}`"
        " embeds every row again.",
    )


def watched_by(targets: Sequence[Target], table: str | None, column: str | None) -> list[Target]:
    """Select the targets of a table, by the name it is watched under, and of a column (None: any).

    Raises SettingsError if one is given and nothing of that name is watched.
    """
    found = [
        target
        for target in targets
        if table in (None, target.table_name) and column in (None, target.embedding_column)
    ] or [
        target
        for target in targets
        if table in (None, target.table_name) and column == target.serves and target.is_serving
    ]
    asked = {"column": column, "table": table}
    given = [f"{kind} {name or NAMELESS}" for kind, name in asked.items() if name is not None]
    if given and not found:
        raise SettingsError(
            f"{' of '.join(given)} is not watched",
            "`worker targets` lists the watched columns; `worker watch` adds one.",
        )
    return found


def searched_by(targets: Sequence[Target], column: str | None) -> list[Target]:
    """Select those that a search of a column uses (None: of any), by the name that people give it.

    While a column is re-embedded, the name of the new one leads to that.
    """
    named = [
        target
        for target in targets
        if target.is_serving and column in (None, target.serves or target.embedding_column)
    ]
    return named or [target for target in targets if column == target.embedding_column]


def resolve_table(given: str, look_up: Callable[[str], str | None]) -> str:
    """Look up a table by its exact name, or else by the name as SQL reads it.

    `look_up` gets SQL, and returns None or raises a DatabaseError if there is no such table. Raises
    SettingsError if there is none, and what an outage or a locked table raises.
    """
    for name in ('"' + given.replace('"', '""') + '"', given):
        try:
            found = look_up(name)
        except (Unreachable, Busy):
            raise
        except DatabaseError:  # no such table, or not a valid name
            continue
        if found is not None:
            return found
    raise no_such_table(given)


def no_such_table(given: str) -> SettingsError:
    """The error for the name of a table that does not exist."""
    return SettingsError(
        f"there is no table {given or NAMELESS}",
        "Write it as in SQL, with its schema and its quotes where it needs them: "
        'app.docs, or \'"My-Schema"."Weird Table"\'.',
    )
