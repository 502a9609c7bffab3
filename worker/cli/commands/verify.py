"""`worker verify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from worker.cli.console import ProgressLine, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    Against,
    AsJson,
    ComparedQueries,
    Cutoff,
    EmbeddingColumn,
    HtmlReport,
    MarkdownReport,
    Qrels,
    SampleSize,
    TableName,
)
from worker.cli.render.verification import print_verification
from worker.errors import SettingsError
from worker.evaluation.judgments import JudgedQuery, read_queries
from worker.operations import verify as verifying
from worker.operations.session import open_queue
from worker.verification.reports import as_html, as_markdown


def verify(
    table: TableName,
    column: EmbeddingColumn = "embedding",
    against: Against = None,
    sample: SampleSize = 100,
    queries: ComparedQueries = None,
    qrels: Qrels = None,
    k: Cutoff = 10,
    as_json: AsJson = False,
    markdown: MarkdownReport = None,
    html: HtmlReport = None,
) -> int:
    """Check the vectors of a column: all rows, and a sample against the model."""
    _check_folders(markdown, html)
    asked = _read(queries, qrels)
    progress = ProgressLine()
    settings = load_settings(asks_model=True)
    with open_queue(settings) as queue:
        result = verifying.verify(
            queue,
            settings,
            table,
            column,
            against=against,
            queries=asked,
            sample=sample,
            k=k,
            on_rows=lambda rows: progress.say(f"read {rows} rows"),
        )
    if as_json:
        out_json(asdict(result))
    else:
        print_verification(result)
    _write({markdown: as_markdown(result), html: as_html(result)})
    return int(not result.passed)


def _read(queries: Path | None, qrels: Path | None) -> list[JudgedQuery]:
    if queries:
        return read_queries(queries, qrels, need_judgments=False)
    if qrels:
        raise SettingsError("--qrels judges nothing without queries", "Add --queries FILE.")
    return []


def _check_folders(*files: Path | None) -> None:
    """Raise SettingsError if a report could not be written, before anything is read."""
    for file in files:
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise SettingsError(f"{file} cannot be written", "Give a file in a folder that exists.")


def _write(reports: Mapping[Path | None, str]) -> None:
    for file, report in reports.items():
        if file is None:
            continue
        try:
            file.write_text(report, encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"{file} cannot be written: {error.strerror}",
                "Give a file that this user may write.",
            ) from None
        say(f"written: {file}")
