"""Prints what a verification found, and writes reports of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from worker.cli.console import out, out_json, say
from worker.cli.render.tables import out_table
from worker.cli.render.text import one_line
from worker.errors import SettingsError
from worker.figures import counted, dollars
from worker.verification.reports import as_html, as_markdown, figures_of
from worker.verification.result import Check, Verification

LONGEST_ID = 80  # cells of a terminal

FORMATS: Mapping[str, Callable[[Sequence[Verification]], str]] = {
    ".html": as_html,
    ".md": as_markdown,
}


def check_reports(files: Sequence[Path]) -> None:
    """Raise SettingsError if a report could not be written, before anything is read."""
    for file in files:
        if file.suffix not in FORMATS:
            raise SettingsError(
                f"{file} is neither HTML nor Markdown", "Give a name that ends in .html or .md."
            )
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise SettingsError(f"{file} cannot be written", "Give a file in a folder that exists.")


def show_verifications(
    results: Sequence[Verification], as_json: bool = False, reports: Sequence[Path] = ()
) -> None:
    """Print the checks of columns, one after the other, and write the reports.

    Raises SettingsError if one cannot be written.
    """
    if as_json:
        out_json([asdict(result) for result in results])
    for number, result in enumerate(results if not as_json else ()):
        if number:
            out("")
        _print(result)
    for file in reports:
        _write(results, file)


def _write(results: Sequence[Verification], file: Path) -> None:
    try:
        file.write_text(FORMATS[file.suffix](results), encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be written: {error.strerror}",
            "Give a file that this user may write.",
        ) from None
    say(f"written: {file}")


def _print(result: Verification) -> None:
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
