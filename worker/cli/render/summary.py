"""Prints the summary of a run, and determines its exit code."""

from __future__ import annotations

from worker.cli.console import out, out_json, report, say
from worker.cli.signals import INTERRUPTED
from worker.errors import Paused
from worker.figures import dollars
from worker.operations.processing import RunResult

RESUME = "Run `worker resume` to let workers continue."


def print_summary(result: RunResult, as_json: bool) -> None:
    """Print the result of a run; docs/cli.md is the contract of the JSON."""
    stats = result.stats
    if as_json:
        out_json(
            {
                "processed": stats.processed,
                "completed": stats.completed,
                "unchanged": stats.unchanged,
                "skipped": stats.skipped,
                "dropped": stats.dropped,
                "failed": stats.failed,
                "stale": stats.stale,
                "released": stats.released,
                "success_rate": stats.success_rate,
                "elapsed_seconds": round(stats.elapsed, 3),
                "rows_per_second": round(stats.rows_per_second, 1),
                "cached": stats.cached,
                "passages_embedded": stats.passages_embedded,
                "passages_reused": stats.passages_reused,
                "requests": stats.requests,
                "tokens": stats.tokens,
                "cost": stats.cost,
                "ended": result.ended,
                "error": result.errors[0].cause if result.errors else None,
            }
        )
        return
    if result.ended and not result.did_nothing_for_a_pause:
        say(f"ended: {result.ended}")
    out("=== PROCESSING SUMMARY ===")
    out(f"Total records processed: {stats.processed}")
    out(f"Total errors: {stats.failed}")
    out(f"Success rate: {stats.success_rate}%")
    for name, count, meaning in (
        ("Unchanged", stats.unchanged, "had the right vector already"),
        ("Skipped", stats.skipped, "nothing to embed"),
        ("Dropped", stats.dropped, "the record is gone"),
        ("Stale", stats.stale, "edited meanwhile, vector discarded"),
        ("Released", stats.released, "due again later"),
    ):
        if count:
            out(f"{name}: {count} ({meaning})")
    out(f"Elapsed: {stats.elapsed:.1f} s")
    out(f"Rows per second: {stats.rows_per_second:.0f}")
    if stats.passages_embedded or stats.passages_reused:
        out(f"Passages: {stats.passages_embedded} embedded, {stats.passages_reused} reused")
    if stats.cached:
        out(f"From the cache: {stats.cached}")
    if stats.requests:
        out(f"Requests: {stats.requests}")
    if stats.tokens is not None:
        out(f"Tokens: {stats.tokens}")
    if stats.cost is None or stats.cost > 0:
        out(f"Cost: {dollars(stats.cost)}")


def exit_code(result: RunResult) -> int:
    """Report the errors of a run. Return its exit code."""
    for error in {error.cause: error for error in result.errors}.values():
        report(error)
    if result.errors:
        return result.errors[0].exit_code
    if result.was_interrupted:
        return INTERRUPTED
    if result.did_nothing_for_a_pause:
        raise Paused("workers are paused, so nothing was embedded", RESUME)
    if result.was_paused:
        say(f"hint: {RESUME}")
    if result.stats.failed:
        say("hint: `worker status` shows why; `worker requeue --failed` tries them again.")
        return 1
    return 0
