"""Prints the state of re-embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from worker.cli.console import out, out_json, say
from worker.cli.render.text import dollars
from worker.queue import Finding, Reembedding, ReembeddingEvent, ReembeddingProgress
from worker.terminal import printable

STAGES = {
    "filling": "embedding all texts with {model}",
    "indexing": "building the index over the new vectors",
    "verifying": "verifying the new vectors",
}
NEXT_STEPS = {
    "filling": "running workers fill it; `worker reembed resume {column}` does so here",
    "paused": "`worker reembed resume {column}` goes on",
    "indexing": "`worker reembed resume {column}` goes on",
    "verifying": "`worker reembed resume {column}` verifies the new vectors, and"
    " `worker reembed swap {column} --no-verify` lets them serve unverified",
    "ready": "`worker reembed swap {column}` lets the new vectors serve",
    "swapped": "`worker reembed cleanup {column}` drops the old vectors, and"
    " `worker reembed rollback {column}` goes back to them",
}


def stage_of(reembedding: Reembedding) -> str:
    """What a stage does, in a sentence."""
    if reembedding.is_cast and reembedding.state == "filling":
        return "casting all vectors"
    return STAGES[reembedding.state].format(model=reembedding.new_model)


def next_step(reembedding: Reembedding) -> str | None:
    """What to do next; None: nothing is left."""
    step = NEXT_STEPS.get(reembedding.state)
    return step and step.format(column=printable(reembedding.named))


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what a preflight found."""
    for finding in findings:
        say(printable(f"{finding.level}: {finding.subject}: {finding.cause}"))
        if finding.hint:
            say(printable(f"  {finding.hint}"))


def print_statuses(
    found: Sequence[tuple[Reembedding, ReembeddingProgress]],
    events: Sequence[Sequence[ReembeddingEvent]],
    as_json: bool,
) -> None:
    """Print the re-embeddings with their progress and events, the earliest first."""
    if as_json:
        out_json(
            [
                {**asdict(each), "progress": asdict(progress), "events": list(map(asdict, steps))}
                for (each, progress), steps in zip(found, events, strict=True)
            ]
        )
    elif not found:
        say("no column was ever re-embedded")
        say("hint: `worker reembed start TABLE.COLUMN --model MODEL` begins with one")
    for (each, progress), steps in zip(found, events, strict=True):
        if not as_json:
            _print(each, progress, steps[-1] if steps else None)


def _print(
    reembedding: Reembedding, progress: ReembeddingProgress, last: ReembeddingEvent | None
) -> None:
    out("=== RE-EMBEDDING STATUS ===")
    lines = {
        "Column": reembedding.named,
        "From": f"{reembedding.old_model or 'no model yet'} ({reembedding.old_column})",
        "To": f"{reembedding.new_model}, {reembedding.dimensions} dimensions"
        f" ({reembedding.new_column})",
        "Store": _store(reembedding),
        "State": reembedding.state,
        "Problem": reembedding.problem,
        "Progress": _far(progress),
        "Pending": progress.pending,
        "Failed": progress.failed,
        "Tokens": None if reembedding.is_cast else progress.tokens,
        "Cost": None if reembedding.is_cast or progress.cost is None else dollars(progress.cost),
        "Started": f"{reembedding.started_at:%Y-%m-%d %H:%M %Z}",
        "Last step": last and f"{last.event} by {last.actor} ({last.source}), {last.at:%H:%M:%S}",
    }
    for name, value in lines.items():
        if value not in (None, 0):
            out(printable(f"{name}: {value}"))
    if step := next_step(reembedding):
        out(f"Next: {step}")


def _store(reembedding: Reembedding) -> str | None:
    """Where the new vectors are, if that is not a column."""
    config = reembedding.config or {}
    reason = config.get("store_reason")
    return f"side table{f' ({reason})' * bool(reason)}" if config.get("store") == "table" else None


def _far(progress: ReembeddingProgress) -> str | None:
    if progress.rows is None:
        return None
    percent = 1000 * progress.done // progress.rows / 10 if progress.rows else 100
    about = "" if progress.rows_exact else "about "
    return f"{progress.done} of {about}{progress.rows} ({percent:.1f}%)"
