"""The checks of a sample: against the model, the index, and another column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from worker.verification.comparison import LEAST_NOISE_FLOOR, Comparison
from worker.verification.result import Check
from worker.verification.rows import EXAMPLES, Watched

GOOD_RECALL, LEAST_RECALL = 0.95, 0.8
LEAST_OVERLAP = 0.1  # below it, two models hardly ever agree: one column may have wrong vectors

FILL = "Run `worker backfill`, then `worker process`."

REASONS = {
    "truncated": "embedded only in part",
    "enhanced": "embedded with the text of a chat model",
    "not_in_step": "not in step with their job",
}
"""Why texts are not compared with their vectors."""


def check_sample(comparison: Comparison, excluded: Mapping[str, int], watched: Watched) -> Check:
    """Check stored vectors against those that the model gives for their texts now."""
    cosines = list(comparison.cosines.values())
    below = comparison.below
    figures = {
        "compared": len(cosines),
        "below": len(below),
        "excluded": sum(excluded.values()) + comparison.refused,
        "noise_floor": round(comparison.noise_floor, 6),
        "gate": round(comparison.gate, 6),
        "lowest": round(min(cosines), 6) if cosines else None,
    }
    if comparison.noise_floor < LEAST_NOISE_FLOOR:
        cause = "not compared: the model gives very different vectors for the same text"
        return Check("sample", "note", figures, cause, "Check the server of the model.", [], False)
    if below:
        cause = (
            f"vectors that the model does not give for their text: {len(below)} of {len(cosines)}"
        )
        return Check("sample", "problem", figures, cause, watched.renew, below[:EXAMPLES])
    if comparison.refused:
        cause = f"texts that the model does not embed any more: {comparison.refused}"
        return Check("sample", "note", figures, cause, "`worker status` shows failed jobs.")
    return Check("sample", "ok", figures)


def nothing_to_compare(excluded: Mapping[str, int], vectors: int) -> Check:
    """The check of a sample without a text that can be compared with its vector."""
    figures = {"compared": 0, "excluded": sum(excluded.values())}
    if excluded:
        reasons = ", ".join(f"{REASONS[reason]}: {count}" for reason, count in excluded.items())
        return Check("sample", "note", figures, f"no text can be compared; {reasons}")
    if vectors:
        return Check.not_made("sample", "the sample has no vector", "Try again with a larger one.")
    return Check("sample", "ok", figures)


def check_index(has_index: bool, recall: float | None, queries: int, k: int) -> Check:
    """Check how many of the nearest rows the vector index finds."""
    if not has_index or not queries:
        return Check("index", "ok", {"recall": None, "queries": 0, "k": k})
    if recall is None:
        return Check.not_made(
            "index",
            "comparing all vectors takes too long",
            "Use DATABASE_URL, or raise statement_timeout.",
        )
    figures = {"recall": round(recall, 4), "queries": queries, "k": k}
    if recall >= GOOD_RECALL:
        return Check("index", "ok", figures)
    cause = f"the index finds {100 * recall:.1f}% of the nearest {k} rows"
    cure = "Raise hnsw.ef_search (or ivfflat.probes), or build the index again."
    return Check("index", "problem" if recall < LEAST_RECALL else "note", figures, cause, cure)


def check_overlap(name: str, overlaps: Sequence[float], k: int) -> Check:
    """Check how many of the nearest rows two columns have in common."""
    if not overlaps:
        return Check.not_made(name, "no sampled row has a vector in both columns", FILL)
    mean = fmean(overlaps)
    figures = {"overlap": round(mean, 4), "queries": len(overlaps), "k": k}
    if mean >= LEAST_OVERLAP:
        return Check(name, "ok", figures)
    cause = f"both columns agree on {100 * mean:.1f}% of the nearest {k} rows"
    return Check(name, "note", figures, cause, "Compare some searches by `worker search`.")


def check_queries(mean: float, low: float, high: float, queries: int, k: int) -> Check:
    """Check the difference of nDCG to the other column, with the interval of its mean."""
    figures = {
        "ndcg_difference": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "queries": queries,
        "k": k,
    }
    if high >= 0:  # other queries might show the opposite
        return Check("queries", "ok", figures)
    cause = f"searches find less than in the other column: nDCG@{k} {mean:+.3f}"
    return Check("queries", "problem", figures, cause, "Compare both by `worker evaluate`.")


def count_excluded(reasons: Sequence[str | None]) -> Counter[str]:
    """Count why texts are not compared."""
    return Counter(reason for reason in reasons if reason is not None)
