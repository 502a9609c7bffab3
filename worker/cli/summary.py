"""What is said of a run when it has ended."""

from __future__ import annotations

from collections.abc import Iterable

from worker.cli.console import dollars, out, out_json, report, say
from worker.engine.pipeline import Pipeline
from worker.engine.service import ORDERED
from worker.errors import DatabaseError, Paused, WorkerError
from worker.queue import Target, other_model

RESUME = "Run `worker resume` to let workers continue."


def print_summary(pipeline: Pipeline, as_json: bool) -> None:
    """The result of a run; docs/cli.md is the contract of the JSON."""
    tally = pipeline.tally
    if as_json:
        out_json(
            {
                "processed": tally.processed,
                "completed": tally.completed,
                "unchanged": tally.unchanged,
                "skipped": tally.skipped,
                "dropped": tally.dropped,
                "failed": tally.failed,
                "stale": tally.stale,
                "released": tally.released,
                "success_rate": tally.success_rate,
                "elapsed_seconds": round(tally.elapsed, 3),
                "rows_per_second": round(tally.rows_per_second, 1),
                "cached": tally.cached,
                "requests": tally.requests,
                "tokens": tally.tokens,
                "cost": tally.cost,
                "ended": ended_by(pipeline),
                "trouble": pipeline.troubles[0].cause if pipeline.troubles else None,
            }
        )
        return
    if (ended := ended_by(pipeline)) and not did_nothing_for_a_pause(pipeline):
        say(f"ended: {ended}")
    out("=== PROCESSING SUMMARY ===")
    out(f"Total records processed: {tally.processed}")
    out(f"Total errors: {tally.failed}")
    out(f"Success rate: {tally.success_rate}%")
    for name, count, meaning in (
        ("Unchanged", tally.unchanged, "had the right vector already"),
        ("Skipped", tally.skipped, "nothing to embed"),
        ("Dropped", tally.dropped, "the record is gone"),
        ("Stale", tally.stale, "edited meanwhile, vector thrown away"),
        ("Handed back", tally.released, "due again later"),
    ):
        if count:
            out(f"{name}: {count} ({meaning})")
    out(f"Elapsed: {tally.elapsed:.1f} s")
    out(f"Rows per second: {tally.rows_per_second:.0f}")
    if tally.cached:
        out(f"From the cache: {tally.cached}")
    if tally.requests:
        out(f"Requests: {tally.requests}")
    if tally.tokens is not None:
        out(f"Tokens: {tally.tokens}")
    if tally.cost is None or tally.cost > 0:
        out(f"Cost: {dollars(tally.cost)}")


def ended_by(pipeline: Pipeline) -> str | None:
    """Why it ended before all was done, if it was told to."""
    return pipeline.verdict.cause if pipeline.verdict.gear == "end" else None


def is_paused(pipeline: Pipeline) -> bool:
    """Whether it ended because of `worker pause` or `worker sleep`."""
    return ended_by(pipeline) in ORDERED.values()


def did_nothing_for_a_pause(pipeline: Pipeline) -> bool:
    """Whether that was so before it claimed anything."""
    return is_paused(pipeline) and not pipeline.tally.taken


def exit_code(pipeline: Pipeline) -> int:
    """The exit code of a run, after telling what went wrong with it."""
    for trouble in {trouble.cause: trouble for trouble in pipeline.troubles}.values():
        report(trouble)
    if pipeline.troubles:
        return pipeline.troubles[0].exit_code
    if pipeline.stop.is_set():
        return 130
    if did_nothing_for_a_pause(pipeline):
        raise Paused("workers are paused, so nothing was embedded", RESUME)
    if is_paused(pipeline):
        say(f"hint: {RESUME}")
    if pipeline.tally.failed:
        say("hint: `worker status` shows why; `worker requeue --failed` tries them once more.")
        return 1
    return 0


def report_unserved(targets: Iterable[Target], default_model: str) -> int:
    """Report the columns that this worker does not work on. Returns the exit code for that."""
    problems = [problem for target in targets if (problem := _unserved(target, default_model))]
    for problem in problems:
        report(problem)
    return problems[0].exit_code if problems else 0


def _unserved(target: Target, default_model: str) -> WorkerError | None:
    if target.problem:
        return DatabaseError(
            f"column {target.embedding_column} of table {target.table_name} is set aside:"
            f" {target.problem}",
            "Fix the table, then run `worker watch` for the column again.",
        )
    return other_model(target, default_model)
