"""`worker doctor`."""

from __future__ import annotations

from dataclasses import asdict

from worker.cli.console import out, out_json
from worker.cli.process import AsJson
from worker.cli.session import load_settings, open_unchecked_queue
from worker.doctor import examine
from worker.queue import Finding


def doctor(as_json: AsJson = False) -> int:
    """Check connection, schema, columns and models, and print how to fix what is wrong."""
    settings = load_settings()
    findings = list(examine(settings, lambda: open_unchecked_queue(settings)))
    healthy = all(finding.level != "problem" for finding in findings)
    if as_json:
        out_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings, healthy)
    return int(not healthy)


def _print(findings: list[Finding], healthy: bool) -> None:
    for finding in findings:
        out(f"{finding.level}: {finding.subject}: {finding.cause}")
        if finding.hint:
            out(f"  hint: {finding.hint}")
    problems = sum(finding.level == "problem" for finding in findings)
    out("nothing is wrong" if healthy else f"problems: {problems}")
