"""Prints what a verification found."""

from __future__ import annotations

from collections.abc import Sequence

from worker.cli.console import out
from worker.cli.render.tables import out_table
from worker.cli.render.text import one_line
from worker.figures import counted, dollars
from worker.verification.reports import figures_of
from worker.verification.result import Check, Verification

LONGEST_ID = 80  # cells of a terminal


def print_verifications(results: Sequence[Verification]) -> None:
    """Print the checks of columns, one after the other."""
    for number, result in enumerate(results):
        if number:
            out("")
        print_verification(result)


def print_verification(result: Verification) -> None:
    """Print the checks, and what to do about those that are not ok."""
    compared = f", compared with {result.against}" if result.against else ""
    out(f"{result.column}: vectors of {result.model or 'no model yet'}{compared}")
    tokens = "tokens not known" if result.tokens is None else counted(result.tokens, "token")
    out(f"embedded again: {tokens}, {dollars(result.cost)}")
    out("")
    out_table(
        ["check", "result", "figures"],
        [(check.name, check.status, figures_of(check)) for check in result.checks],
    )
    out("")
    for check in result.checks:
        _print_cause(check)
    out(result.summary)


def _print_cause(check: Check) -> None:
    if check.cause is None:
        return
    out(f"{check.status}: {check.name}: {check.cause}")
    if check.record_ids:
        shown = (one_line(record_id, LONGEST_ID) for record_id in check.record_ids)
        out(f"  records: {', '.join(shown)}")
    if check.cure:
        out(f"  hint: {check.cure}")
