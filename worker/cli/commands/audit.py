"""The command `audit`."""

from __future__ import annotations

from dataclasses import asdict

from worker.cli.console import out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import AsJson, JobsShown, Table
from worker.cli.render.audit import print_audit
from worker.operations.audit import list_audit
from worker.operations.session import open_queue


def audit(table: Table = None, limit: JobsShown = 20, as_json: AsJson = False) -> None:
    """List who did what to columns, jobs, vectors and workers, when, and from where."""
    with open_queue(load_settings()) as queue:
        found = list_audit(queue, table, limit=limit)
    if as_json:
        out_json([asdict(entry) for entry in found])
    elif found:
        print_audit(found, is_full=len(found) == limit)
    else:
        say("No entries.")
