"""`worker evaluate`."""

from __future__ import annotations

from worker.cli.console import ProgressLine
from worker.cli.environment import load_settings
from worker.cli.options import (
    AsJson,
    Baseline,
    Column,
    Cutoff,
    FullTextWeight,
    Qrels,
    Queries,
    RerankedBy,
    Table,
)
from worker.cli.render.evaluation import print_evaluation
from worker.evaluation.baseline import read_baseline
from worker.evaluation.judgments import read_queries
from worker.operations import evaluate as evaluating
from worker.operations.session import open_queue


def evaluate(
    queries: Queries,
    qrels: Qrels = None,
    table: Table = None,
    column: Column = None,
    k: Cutoff = 10,
    full_text_weight: FullTextWeight = 1.0,
    rerank: RerankedBy = None,
    baseline: Baseline = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well searches find the rows that people judged relevant."""
    judged = read_queries(queries, qrels)
    earlier = read_baseline(baseline, k) if baseline else []
    progress = ProgressLine()
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        found = evaluating.evaluate(
            queue,
            settings,
            judged,
            table=table,
            column=column,
            k=k,
            full_text_weight=full_text_weight,
            rerank=rerank,
            baseline=earlier,
            on_query=lambda done: progress.say(f"searched for {done} of {len(judged)} queries"),
        )
    print_evaluation(found, as_json=as_json)
