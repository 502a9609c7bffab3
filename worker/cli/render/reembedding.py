"""Prints the state of re-embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from worker.cli.console import out, out_json, say
from worker.durations import format_duration
from worker.figures import counted, dollars
from worker.operations.estimate import Forecast
from worker.operations.reembed_start import StartPlan
from worker.queue import (
    Finding,
    Reembedding,
    ReembeddingEvent,
    ReembeddingProgress,
    ReembeddingUsage,
    TargetStatus,
)
from worker.terminal import printable


@dataclass(frozen=True, slots=True)
class Status:
    """A re-embedding as `worker reembed status` shows it.

    `old`: the old vectors, while they are kept in step after a swap.
    """

    reembedding: Reembedding
    progress: ReembeddingProgress
    old: TargetStatus | None
    usage: Sequence[ReembeddingUsage]
    events: Sequence[ReembeddingEvent]


LACKING = ("pending", "processing", "failed")
"""The counts of a column whose texts have no vector yet, or the vector of an earlier text."""

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
    if reembedding.is_cast and reembedding.state == "filling":
        step = NEXT_STEPS["paused"]  # no worker casts
    return step and step.format(column=printable(reembedding.named))


def print_plan(plan: StartPlan, show: Callable[[str], None]) -> None:
    """Print what a preflight found, and what the fill is estimated to take."""
    print_findings(plan.findings, show)
    if not plan.problems:
        show(printable(str(plan.choice)))
    show(printable(f"estimate: {_estimate(plan.forecast)}"))


def print_findings(findings: Sequence[Finding], show: Callable[[str], None]) -> None:
    """Print what speaks against a step."""
    for finding in findings:
        show(printable(f"{finding.level}: {finding.subject}: {finding.cause}"))
        if finding.hint:
            show(printable(f"  {finding.hint}"))


def _estimate(forecast: Forecast | None) -> str:
    if forecast is None:
        return "not known, because the texts cannot be read now"
    cost = "cost not known" if forecast.cost is None else dollars(forecast.cost)
    time = "time not known before the first run with the model"
    if forecast.seconds is not None:
        time = f"{format_duration(forecast.seconds)} for one worker"
    size = f"{counted(forecast.texts, 'text')}, {counted(forecast.tokens, 'token')}"
    return f"{size}, {cost}, {time} ({forecast.model})"


def print_statuses(found: Sequence[Status], as_json: bool) -> None:
    """Print the re-embeddings, the earliest first."""
    if as_json:
        out_json(
            [
                {
                    **asdict(each.reembedding),
                    "progress": asdict(each.progress),
                    "old": each.old and {name: getattr(each.old, name) for name in LACKING},
                    "since_swap": list(map(asdict, each.usage)),
                    "events": list(map(asdict, each.events)),
                }
                for each in found
            ]
        )
    elif not found:
        say("no column was ever re-embedded")
        say("hint: `worker reembed start TABLE.COLUMN --model MODEL` begins with one")
    for each in found if not as_json else ():
        _print(each)


def _print(status: Status) -> None:
    out("=== RE-EMBEDDING STATUS ===")
    reembedding, progress, old = status.reembedding, status.progress, status.old
    last = status.events[-1] if status.events else None
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
        "Pending, old": old and old.pending + old.processing,
        "Failed, old": old and old.failed,
        **_spent(reembedding, progress),
        "Remaining": _remaining(reembedding, progress),
        **_since_swap(reembedding, status.usage),
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


def _spent(reembedding: Reembedding, progress: ReembeddingProgress) -> dict[str, str | None]:
    """What the new model took, with the estimate of the whole fill while it goes on."""
    estimate = (reembedding.config or {}).get("estimate")
    is_going_on = reembedding.state in ("filling", "paused")
    if reembedding.is_cast or (progress.tokens is None and not is_going_on):
        return {}
    tokens, cost = str(progress.tokens or 0), dollars(progress.cost if progress.tokens else 0)
    if is_going_on and isinstance(estimate, dict):
        tokens += f" of about {estimate.get('tokens')}"
        cost += f" of about {dollars(estimate.get('cost'))}" if estimate.get("cost") else ""
    return {"Tokens": tokens, "Cost": cost}


def _remaining(reembedding: Reembedding, progress: ReembeddingProgress) -> str | None:
    if reembedding.state != "filling" or reembedding.is_cast or not progress.eta_seconds:
        return None
    return f"about {format_duration(progress.eta_seconds)}"


def _since_swap(reembedding: Reembedding, usage: Sequence[ReembeddingUsage]) -> dict[str, str]:
    """What it takes to keep both sets of vectors in step, by model."""
    names = {reembedding.old_model: "old", reembedding.new_model: "new"}
    if reembedding.old_model == reembedding.new_model:
        names = {reembedding.new_model: "both"}
    return {
        f"Since the swap, {names.get(each.model, 'old')}": f"{counted(each.texts, 'text')},"
        f" {counted(each.tokens, 'token')}, {dollars(each.cost)} ({each.model})"
        for each in usage
    }


def _far(progress: ReembeddingProgress) -> str | None:
    if progress.rows is None:
        return None
    percent = 1000 * progress.done // progress.rows / 10 if progress.rows else 100
    about = "" if progress.rows_exact else "about "
    return f"{progress.done} of {about}{progress.rows} ({percent:.1f}%)"
