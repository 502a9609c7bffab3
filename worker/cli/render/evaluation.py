"""Prints how well searches find what people judged relevant."""

from __future__ import annotations

from dataclasses import asdict

from worker.cli.console import out, out_json, say
from worker.cli.render.tables import out_table
from worker.evaluation.scores import Difference
from worker.figures import counted, dollars, rounded_down
from worker.operations.evaluate import Evaluation


def print_evaluation(found: Evaluation, *, as_json: bool) -> None:
    """Print how well each kind of search did; docs/cli.md is the contract of the JSON."""
    if found.missing:
        say(
            f"warning: {found.missing} of {counted(found.relevant, 'relevant record')} do not exist"
            f" in {found.column} or have no vector"
        )
    if found.unjudged:
        queries = counted(found.unjudged, "query", "queries")
        say(f"warning: {queries} without a relevant record: not counted")
    if as_json:
        out_json(asdict(found))
    else:
        _print(found)


def _print(found: Evaluation) -> None:
    tokens = "tokens not known" if found.tokens is None else counted(found.tokens, "token")
    out(f"{counted(found.queries, 'query', 'queries')} in {found.column}")
    out(f"embedded by {found.model}: {tokens}, {dollars(found.cost)}")
    if found.reranker:
        out(f"reranked by {found.reranker}: {dollars(found.rerank_cost)}")
    out("")
    out_table(
        ["search", f"nDCG@{found.k}", "95 % interval", f"recall@{found.k}", f"MRR@{found.k}"],
        [
            (
                score.search,
                f"{score.ndcg.mean:.3f}",
                f"{score.ndcg.low:.3f} to {score.ndcg.high:.3f}",
                f"{score.recall:.3f}",
                f"{score.mrr:.3f}",
            )
            for score in found.scores
        ],
    )
    out("")
    for difference in found.differences:
        out(_difference(difference, found.k))
    out(_index_recall(found))


def _difference(difference: Difference, k: int) -> str:
    mean = difference.ndcg
    return (
        f"{difference.search} - {difference.other}: nDCG@{k} {mean.mean:+.3f}"
        f" ({mean.low:+.3f} to {mean.high:+.3f})"
        + (", which may be noise" if difference.may_be_noise else "")
    )


def _index_recall(found: Evaluation) -> str:
    if not found.has_vector_index:
        return "index recall: there is no vector index, all vectors are compared"
    if found.index_recall is None:
        return "index recall: not known, comparing all vectors takes too long"
    share = rounded_down(100 * found.index_recall)
    return f"index recall: {share}% of the nearest {counted(found.k, 'row')}"
