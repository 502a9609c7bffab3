"""`worker verify`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from worker.cli.commands import repair as repairing
from worker.cli.console import ProgressLine
from worker.cli.environment import load_settings
from worker.cli.options import (
    Against,
    AnyTableName,
    AsJson,
    Column,
    ComparedQueries,
    Cutoff,
    Qrels,
    Repair,
    RepairBudget,
    ReportFiles,
    SampleSize,
    Yes,
)
from worker.cli.render.verification import check_reports, show_verifications
from worker.errors import SettingsError
from worker.evaluation.judgments import JudgedQuery, read_queries
from worker.operations import verify as verifying
from worker.operations.session import open_queue, select
from worker.queue import AdminQueue
from worker.verification.result import Verification


def verify(
    table: AnyTableName = None,
    column: Column = None,
    against: Against = None,
    sample: SampleSize = 100,
    queries: ComparedQueries = None,
    qrels: Qrels = None,
    k: Cutoff = 10,
    as_json: AsJson = False,
    report: ReportFiles = None,
    repair: Repair = False,
    repair_budget: RepairBudget = None,
    yes: Yes = False,
) -> int:
    """Check the vectors of watched columns: all rows, and a sample against the model."""
    if repair:
        return repairing.repair(table, column, repair_budget, yes, as_json)
    reports = report or []
    check_reports(reports)
    asked = _read(queries, qrels)
    check = partial(verifying.verify, against=against, queries=asked, sample=sample, k=k)
    results = _verified(check, table, column, against)
    show_verifications(results, as_json, reports)
    return int(not all(result.passed for result in results))


def _verified(
    check: Callable[..., Verification], table: str | None, column: str | None, against: str | None
) -> list[Verification]:
    progress = ProgressLine()
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        return [
            check(queue, settings, *name, on_rows=lambda rows: progress.say(f"read {rows} rows"))
            for name in _columns(queue, table, column, against)
        ]


def _columns(
    queue: AdminQueue, table: str | None, column: str | None, against: str | None
) -> list[tuple[str, str]]:
    """Return the columns to verify: table and column of each."""
    if against and table is None:
        raise SettingsError("--against is for the columns of one table", "Give the table.")
    if table and (column or against):
        return [(table, column or "embedding")]
    targets = select(queue, table, column).targets
    return [(target.table_name, target.embedding_column) for target in targets]


def _read(queries: Path | None, qrels: Path | None) -> list[JudgedQuery]:
    if queries:
        return read_queries(queries, qrels, need_judgments=False)
    if qrels:
        raise SettingsError("--qrels judges nothing without queries", "Add --queries FILE.")
    return []
