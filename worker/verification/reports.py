"""The report of verifications as Markdown, and as a page of HTML that needs nothing else.

Names and record ids come from the database, so none of them is markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from worker.terminal import printable
from worker.verification.result import Check, Verification

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #999;padding:.3em .6em;"
    "text-align:left;vertical-align:top;overflow-wrap:anywhere}.problem{background:#fdd;color:#600}"
    ".note{background:#ffd;color:#440}.ok{background:#dfd;color:#040}"
)
HEADS = ("check", "result", "figures", "cause", "what to do", "records")
MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^=])")
"""Characters that can be markup in some dialect of Markdown: each may be escaped."""


def as_markdown(results: Sequence[Verification]) -> str:
    """Return the reports of columns as Markdown."""
    return "\n".join(map(_section_in_markdown, results))


def _section_in_markdown(result: Verification) -> str:
    lines = [
        f"# Verification of {_marked(result.column)}",
        "",
        *(f"- {label}: {_marked(value)}" for label, value in _about(result)),
        "",
        f"| {' | '.join(HEADS)} |",
        f"|{'---|' * len(HEADS)}",
        *(f"| {' | '.join(map(_marked, _cells(check)))} |" for check in result.checks),
    ]
    return "\n".join(lines) + "\n"


def as_html(results: Sequence[Verification]) -> str:
    """Return the reports of columns as HTML, without scripts and references to other files."""
    title = f"Verification of {_text(', '.join(result.column for result in results))}"
    sections = "".join(map(_section_in_html, results))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'\">\n"
        f"<style>{STYLE}</style></head><body>\n{sections}</body></html>\n"
    )


def _section_in_html(result: Verification) -> str:
    about = "".join(f"<li>{label}: {_text(value)}</li>" for label, value in _about(result))
    heads = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    rows = "".join(
        f'<tr class="{check.status}">'
        + "".join(f"<td>{_text(cell)}</td>" for cell in _cells(check))
        + "</tr>\n"
        for check in result.checks
    )
    return (
        f"<h1>Verification of {_text(result.column)}</h1>\n<ul>{about}</ul>\n"
        f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table>\n"
    )


def figures_of(check: Check) -> str:
    """Return the figures of a check that say something, on one line."""
    return ", ".join(
        f"{name} {value}"
        for name, value in check.figures.items()
        if value is not None and (value or isinstance(value, float))
    )


def _about(result: Verification) -> list[tuple[str, str]]:
    return [
        ("result", result.summary),
        ("model", result.model or "none yet"),
        *([("compared with", result.against)] if result.against else []),
    ]


def _cells(check: Check) -> list[str]:
    return [
        check.name,
        check.status,
        figures_of(check),
        check.cause or "",
        check.cure or "",
        ", ".join(check.record_ids),
    ]


def _text(value: str) -> str:
    return escape(printable(value))


def _marked(value: str) -> str:
    return MARKUP.sub(r"\\\1", printable(value))
