"""The texts that a re-embedding would embed: a sample of them, and what is to be known of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from worker.database.connection import PostgresConnection, translated
from worker.queue import Finding, Target
from worker.queue.targets import OnTooLong

SAMPLE = 200  # rows
NAMED = 10  # records at most


@dataclass(frozen=True, slots=True)
class SampledTexts:
    """Some texts of a column, as embedding.reembedding_texts found them.

    `row_count` is None if it is not known. Of `sampled` rows, those in `record_ids` have a text,
    with its length in `bytes` and its beginning in `texts`. `too_long`: those of which the present
    model did not take the whole text.
    """

    row_count: int | None
    sampled: int
    record_ids: list[str]
    bytes: list[int]
    texts: list[str]
    too_long: list[str]
    on_too_long: OnTooLong


def sample_texts(database: PostgresConnection, relation: str, column: str) -> SampledTexts:
    """Return some texts of a watched column. `relation`: the table in SQL, quoted."""
    query: LiteralString = (
        "select pg_catalog.to_jsonb(found) from embedding.reembedding_texts("
        "%s::pg_catalog.text::pg_catalog.regclass, %s, %s) as found"
    )
    with translated():
        row: Any = database.current.execute(query, [relation, column, SAMPLE]).fetchone()
    return SampledTexts(**row[0])


@dataclass(frozen=True, slots=True)
class TooLong:
    """The records of a sample that are too long for a new model, which takes `most` tokens, and not
    for the present one. Unless `is_counted`, their tokens are estimated."""

    record_ids: Sequence[str]
    most: int
    is_counted: bool


def find_too_long(
    sampled: SampledTexts, target: Target, model: str, too_long: TooLong
) -> Iterator[Finding]:
    """Warn of texts that are too long for a model."""
    records = too_long.record_ids
    if not records:
        return
    total = sampled.row_count or sampled.sampled
    found = f"{len(records)} of {sampled.sampled} rows"
    if sampled.sampled < total:
        found += f" of a sample, about {round(len(records) / sampled.sampled * total)} of {total},"
    has = "has" if len(records) == 1 else "have"
    what = "a chunk" if target.chunk_format else "a text"
    estimated = "" if too_long.is_counted else ", by an estimate of their tokens"
    fails = sampled.on_too_long == "fail"
    outcome = "these jobs will fail" if fails else "only its beginning will be embedded"
    more = ", …" if len(records) > NAMED else ""
    yield Finding(
        "warning",
        "too_long",
        target.public_name,
        f"{found} {has} {what} that is too long for {model}, which takes {too_long.most} tokens"
        f"{estimated}: {outcome} (records {', '.join(records[:NAMED])}{more})",
        _cure(target, fails=fails),
    )


def _cure(target: Target, *, fails: bool) -> str:
    watch = f"worker watch {target.table_name} --column {target.embedding_column}"
    others = f"; `{watch} --truncate` embeds the beginning of such a text" if fails else ""
    if target.chunk_format:
        return f"Watch the column with a smaller --chunk-size first, or use another model{others}."
    return f"Shorten the texts, embed them in chunks, or use another model{others}."


def find_same_model(target: Target, model: str, dimensions: int, prompt: str) -> Iterator[Finding]:
    """Warn if a search can tell old and new vectors apart by the prompt of the documents only."""
    before = target.document_prompt
    is_same = (target.model, target.dimensions) == (model, dimensions)
    if not is_same or before in (None, prompt):
        return
    yield Finding(
        "warning",
        "same_model",
        target.public_name,
        f"old and new vectors are of {model} and {dimensions} dimensions, so a search that gives"
        " only these uses the vectors that serve, whatever prompt its query has",
        "Change the query prompt of your app together with the swap; or let it name the document"
        f" prompt after the model, `{model}#{before}` and `{model}#{prompt}`; or use another width"
        " (--dimensions).",
    )
