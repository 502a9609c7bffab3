"""Reports the columns that a worker skips."""

from __future__ import annotations

from collections.abc import Iterable

from worker.cli.console import report
from worker.errors import DatabaseError, WorkerError
from worker.queue import Target, other_model


def report_unserved(targets: Iterable[Target], default_model: str) -> int:
    """Report the columns that this worker skips. Return the exit code for them."""
    problems = [problem for target in targets if (problem := _unserved(target, default_model))]
    for problem in problems:
        report(problem)
    return problems[0].exit_code if problems else 0


def _unserved(target: Target, default_model: str) -> WorkerError | None:
    if target.problem:
        return DatabaseError(
            f"column {target.embedding_column} of table {target.table_name} is suspended:"
            f" {target.problem}",
            "Fix the table, then run `worker watch` for the column again.",
        )
    return other_model(target, default_model)
