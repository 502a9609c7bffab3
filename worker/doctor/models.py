"""Checks that the models of the columns can be called with the configured keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from worker.embedders.registry import open_chat_model, open_embedder, own_prompts
from worker.errors import ProviderError, ProviderRefused, SettingsError, WorkerError
from worker.queue import Finding, Target, other_model
from worker.settings import Settings

QUESTION = "Answer with one word."
PROBE = "a"  # a text of one token, at a negligible cost


def inspect_models(targets: Sequence[Target], settings: Settings) -> Iterator[Finding]:
    """Call each model once for each width, with one letter. Without targets, call the default
    model.

    A column that holds vectors of another default model gets a finding instead.
    """
    default = settings.embedding_model
    enabled = [target for target in targets if target.enabled]
    for target in enabled:
        if problem := other_model(target, default):
            yield Finding("problem", "other_model", target.named, problem.cause, problem.hint)
        yield from _missing_prompt(target, settings)
    wanted = {
        (target.model or default, target.dimensions)
        for target in enabled
        if target.accepts(default)
    } or {(default, None)}
    for model, dimensions in sorted(wanted, key=str):
        yield _call(model, dimensions, settings)
    for chat_model in sorted({each.enhance_model for each in enabled if each.enhance_model}):
        yield _ask(chat_model, settings)


def _missing_prompt(target: Target, settings: Settings) -> Iterator[Finding]:
    """Find a column that was filled without the prompt that its model was trained with."""
    try:
        own = own_prompts(target.model, settings).document if target.model else ""
    except WorkerError:  # the call of the model reports it
        return
    if own and target.document_prompt == "":
        yield Finding(
            "note",
            "missing_prompt",
            target.named,
            f"its texts are embedded without `{own}`, which {target.model} was trained with:"
            " a search finds less",
            f"`worker watch {target.table_name} --column {target.embedding_column}"
            " --document-prompt default` embeds every row again.",
        )


def _ask(model: str, settings: Settings) -> Finding:
    try:
        with closing(open_chat_model(model, settings)) as chat_model:
            chat_model.answer(QUESTION, PROBE)
    except WorkerError as problem:
        return _failure(model, problem)
    return Finding("ok", "model", model, "it answers", None)


def _failure(model: str, problem: WorkerError) -> Finding:
    if isinstance(problem, SettingsError):
        return Finding("problem", "model_setting", model, problem.cause, problem.hint)
    if isinstance(problem, ProviderRefused):
        return Finding("problem", "model_refused", model, problem.cause, problem.hint)
    return Finding("warning", "model_unreachable", model, problem.cause, problem.hint)


def _call(model: str, dimensions: int | None, settings: Settings) -> Finding:
    try:
        with closing(open_embedder(model, dimensions, settings)) as embedder:
            embedder.probe()
            width = len(embedder.embed([PROBE], "document").vectors[0])
    except (SettingsError, ProviderError) as problem:
        return _failure(model, problem)
    if dimensions not in (None, width):
        return Finding(
            "problem",
            "model_width",
            model,
            f"it gives {width} dimensions, but a column with this model holds {dimensions}",
            f"Watch a column of {width} dimensions, or another model.",
        )
    return Finding("ok", "model", model, f"it answers, with {width} dimensions", None)
