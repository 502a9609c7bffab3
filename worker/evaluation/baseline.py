"""An earlier evaluation, to compare another one with it query by query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from worker.errors import SettingsError
from worker.evaluation.judgments import JudgedQuery
from worker.evaluation.scores import Difference, QueryScore


def read_baseline(path: Path, k: int) -> list[QueryScore]:
    """Read the nDCG@k of each query from the output of `worker evaluate --json`.

    Raises SettingsError if the file is something else, or was measured with another `k`.
    """
    try:
        document = json.loads(path.read_bytes())
        found = [
            QueryScore(
                str(query["id"]),
                str(query["query"]),
                {str(search): float(ndcg) for search, ndcg in query["ndcg"].items()},
            )
            for query in document["by_query"]
        ]
        measured = document["k"]
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}", "Give a file that this user may read."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SettingsError(
            f"{path} is not the result of an evaluation",
            "Write one with `worker evaluate … --json > FILE`.",
        ) from None
    if measured != k:
        raise SettingsError(f"{path} was measured with --k {measured}", f"Use --k {measured}.")
    return found


def check_baseline(baseline: Sequence[QueryScore], queries: Sequence[JudgedQuery]) -> None:
    """Raise SettingsError if the earlier evaluation has none of these queries."""
    asked = {(query.id, query.text) for query in queries}
    if baseline and not asked & {(query.id, query.query) for query in baseline}:
        raise SettingsError(
            "the baseline has none of these queries", "Give the result for the same queries."
        )


def differences_from(
    baseline: Sequence[QueryScore], by_query: Sequence[QueryScore]
) -> list[Difference]:
    """Compare each kind of search with the same kind in the baseline, over the common queries."""
    earlier = {(query.id, query.query): query.ndcg for query in baseline}
    pairs = [
        (query.ndcg, earlier[query.id, query.query])
        for query in by_query
        if (query.id, query.query) in earlier
    ]
    return [
        Difference.of(search, "baseline", [(now[search], then[search]) for now, then in pairs])
        for search in by_query[0].ndcg
        if pairs and all(search in then for _, then in pairs)
    ]
